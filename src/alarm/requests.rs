//! API requests that the alarm actor answers: silences, the alarms with their state at each receiver, and resync of a
//! receiver.
//!
//! The handlers are methods of `Alarm`. Answers that need the disk or the sinks are sent later, so that the actor
//! never blocks.

use std::collections::BTreeMap;
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::join_all;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::Alarm;
use crate::io::error_chain::error_chain;
use crate::io::time;
use crate::messages::{QueryNotified, Resync};
use crate::pure::alarm::key::AlarmKey;
use crate::pure::alarm::notification::AlarmStatus;
use crate::pure::alarm::shelving::Silence;
use crate::pure::notify::log::NotifiedState;
use crate::pure::status::api::{ActiveAlarm, ApiError, ApiResponse, NewSilence};

/// Time within which a sink has to report its notification log; the list of alarms is answered without a slower sink.
const ACCOUNT_WAIT: Duration = Duration::from_secs(2);
/// Time within which silences have to be on disk; a slower disk counts as hanging.
const KEEP_WITHIN: Duration = Duration::from_secs(5);

/// Channel for the answer of one request. The requester may have gone, so that a failed send is ignored.
pub(super) type ApiReply = oneshot::Sender<Result<ApiResponse, ApiError>>;

impl Alarm {
    pub(super) fn add_silence(&mut self, new: NewSilence, reply: ApiReply, ctx: &mut Context<Self>) {
        let now = time::now();
        let silence = match new.begin(format!("{:08x}", fastrand::u32(..)), now.wall) {
            Ok(silence) => silence,
            Err(refusal) => {
                let _ignored = reply.send(Err(refusal));
                return;
            }
        };
        let Silence { id, until, author, comment, .. } = &silence;
        info!(id, %until, author, comment, "silence added");
        let changed = self.engine.on_silence(silence.clone(), now);
        self.publish(changed, ctx);
        self.keep_silences(silence, reply, ctx);
    }

    pub(super) fn expire_silence(&mut self, id: &str, reply: ApiReply, ctx: &mut Context<Self>) {
        let Some((silence, changed)) = self.engine.on_expired(id, time::now()) else {
            let _ignored = reply.send(Err(ApiError::NotFound(format!("there is no silence {id}"))));
            return;
        };
        info!(id, "silence expired on request");
        self.publish(changed, ctx);
        self.keep_silences(silence, reply, ctx);
    }

    /// Saves the silences and answers only then, so that the answer states whether the change outlives a restart.
    fn keep_silences(&self, changed: Silence, reply: ApiReply, ctx: &mut Context<Self>) {
        let silences: Vec<Silence> = self.engine.silences(time::now()).cloned().collect();
        let file = self.silences.clone();
        let saved = tokio::task::spawn_blocking(move || file.save(&silences));
        let kept = async move {
            match tokio::time::timeout(KEEP_WITHIN, saved).await {
                Ok(Ok(saved)) => saved.map_err(|error| error_chain(&error)),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("state_dir does not answer".to_owned()),
            }
        };
        ctx.spawn(kept.into_actor(self).map(|kept, _, _| {
            let answer = kept.map(|()| ApiResponse::Silence(changed)).map_err(|problem| {
                warn!(problem, "silences cannot be kept");
                ApiError::Unavailable(format!("done, but it will be lost when the agent restarts: {problem}"))
            });
            let _ignored = reply.send(answer);
        }));
    }

    /// Answers with every alarm that is raised, or may be raised at a receiver, and its state at each receiver.
    pub(super) fn list(&self, reply: ApiReply, ctx: &mut Context<Self>) {
        let names: Vec<String> = self.sinks.names().cloned().collect();
        let accounts = join_all(self.sinks.iter().map(|sink| sink.send(QueryNotified).timeout(ACCOUNT_WAIT)));
        ctx.spawn(accounts.into_actor(self).map(move |accounts, alarm, _| {
            let known = alarm.engine.all(time::now()).map(|alarm_status| {
                let AlarmStatus { notification, suppressed_by } = alarm_status;
                (notification.key.clone(), ActiveAlarm { notification, suppressed_by, sinks: BTreeMap::new() })
            });
            let mut listed: BTreeMap<AlarmKey, ActiveAlarm> = known.collect();
            for (name, account) in names.into_iter().zip(accounts) {
                for (notification, notified) in account.unwrap_or_default() {
                    // Storms, and alarms that only an earlier run notified of, appear in the logs of the sinks alone.
                    let of_sink = || ActiveAlarm {
                        notification: notification.clone(),
                        suppressed_by: None,
                        sinks: BTreeMap::new(),
                    };
                    let active = listed.entry(notification.key.clone()).or_insert_with(of_sink);
                    active.sinks.insert(name.clone(), notified);
                }
            }
            let last_known = |notified: &NotifiedState| {
                notified.unconfirmed || notified.notified.is_some_and(|notified| notified.is_raised())
            };
            let active = |alarm: &ActiveAlarm| alarm.notification.is_raised() || alarm.sinks.values().any(last_known);
            let _ignored = reply.send(Ok(ApiResponse::Alarms(listed.into_values().filter(active).collect())));
        }));
    }

    pub(super) fn resync(&self, name: &String, reply: ApiReply, ctx: &mut Context<Self>) {
        let Some(sink) = self.sinks.get(name) else {
            let _ignored = reply.send(Err(ApiError::NotFound(format!("there is no sink {name}"))));
            return;
        };
        info!(sink = name, "all raised alarms are notified again");
        ctx.spawn(sink.send(Resync).into_actor(self).map(|resent, _, _| {
            let answer = resent.map(|resent| ApiResponse::Resent { resent });
            let _ignored = reply.send(answer.map_err(|error| ApiError::Unavailable(error.to_string())));
        }));
    }
}

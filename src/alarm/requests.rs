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
use crate::io::causes::describe;
use crate::io::time;
use crate::messages::{Account, Resync};
use crate::pure::alarm::AlarmKey;
use crate::pure::ledger::ToldState;
use crate::pure::notification::Standing;
use crate::pure::order::{ActiveAlarm, Answer, NewSilence, Refusal};
use crate::pure::shelf::Silence;

/// Time within which a sink has to report its notification log; the list of alarms is answered without a slower sink.
const ACCOUNT_WAIT: Duration = Duration::from_secs(2);
/// Time within which silences have to be on disk; a slower disk counts as hanging.
const KEEP_WITHIN: Duration = Duration::from_secs(5);

/// Channel for the answer of one request. The requester may have gone, so that a failed send is ignored.
pub(super) type Reply = oneshot::Sender<Result<Answer, Refusal>>;

impl Alarm {
    pub(super) fn add_silence(&mut self, new: NewSilence, reply: Reply, ctx: &mut Context<Self>) {
        let now = time::now();
        let silence = match new.begin(format!("{:08x}", fastrand::u32(..)), now.wall) {
            Ok(silence) => silence,
            Err(refusal) => {
                let _nobody_waits = reply.send(Err(refusal));
                return;
            }
        };
        let Silence { id, until, author, comment, .. } = &silence;
        info!(id, %until, author, comment, "silence made");
        let changed = self.situation.on_silence(silence.clone(), now);
        self.spread(changed, ctx);
        self.keep_silences(silence, reply, ctx);
    }

    pub(super) fn expire_silence(&mut self, id: &str, reply: Reply, ctx: &mut Context<Self>) {
        let Some((silence, changed)) = self.situation.on_expired(id, time::now()) else {
            let _nobody_waits = reply.send(Err(Refusal::NotFound(format!("there is no silence {id}"))));
            return;
        };
        info!(id, "silence ended by hand");
        self.spread(changed, ctx);
        self.keep_silences(silence, reply, ctx);
    }

    /// Saves the silences and answers only then, so that the answer states whether the change outlives a restart.
    fn keep_silences(&self, changed: Silence, reply: Reply, ctx: &mut Context<Self>) {
        let silences: Vec<Silence> = self.situation.silences(time::now()).cloned().collect();
        let file = self.silences.clone();
        let saved = tokio::task::spawn_blocking(move || file.save(&silences));
        let kept = async move {
            match tokio::time::timeout(KEEP_WITHIN, saved).await {
                Ok(Ok(saved)) => saved.map_err(|error| describe(&error)),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("state_dir does not answer".to_owned()),
            }
        };
        ctx.spawn(kept.into_actor(self).map(|kept, _, _| {
            let answer = kept.map(|()| Answer::Silence(changed)).map_err(|problem| {
                warn!(problem, "silences cannot be kept");
                Refusal::Unavailable(format!("done, but it will not outlive a restart of the agent: {problem}"))
            });
            let _nobody_waits = reply.send(answer);
        }));
    }

    /// Answers with every alarm that is raised, or may be raised at a receiver, and its state at each receiver.
    pub(super) fn list(&self, reply: Reply, ctx: &mut Context<Self>) {
        let names: Vec<String> = self.sinks.names().cloned().collect();
        let accounts = join_all(self.sinks.iter().map(|sink| sink.send(Account).timeout(ACCOUNT_WAIT)));
        ctx.spawn(accounts.into_actor(self).map(move |accounts, alarm, _| {
            let known = alarm.situation.all(time::now()).map(|standing| {
                let Standing { notification, withheld } = standing;
                (notification.key.clone(), ActiveAlarm { notification, withheld, sinks: BTreeMap::new() })
            });
            let mut listed: BTreeMap<AlarmKey, ActiveAlarm> = known.collect();
            for (name, account) in names.into_iter().zip(accounts) {
                for (notification, told) in account.unwrap_or_default() {
                    // Storms, and alarms that only an earlier run notified of, appear in the logs of the sinks alone.
                    let of_sink =
                        || ActiveAlarm { notification: notification.clone(), withheld: None, sinks: BTreeMap::new() };
                    let active = listed.entry(notification.key.clone()).or_insert_with(of_sink);
                    active.sinks.insert(name.clone(), told);
                }
            }
            let believed = |told: &ToldState| told.in_doubt || told.told.is_some_and(|told| told.is_raised());
            let active = |alarm: &ActiveAlarm| alarm.notification.is_raised() || alarm.sinks.values().any(believed);
            let _nobody_waits = reply.send(Ok(Answer::Alarms(listed.into_values().filter(active).collect())));
        }));
    }

    pub(super) fn resync(&self, name: &String, reply: Reply, ctx: &mut Context<Self>) {
        let Some(sink) = self.sinks.get(name) else {
            let _nobody_waits = reply.send(Err(Refusal::NotFound(format!("there is no sink {name}"))));
            return;
        };
        info!(sink = name, "told once more what stands");
        ctx.spawn(sink.send(Resync).into_actor(self).map(|resent, _, _| {
            let answer = resent.map(|resent| Answer::Resent { resent });
            let _nobody_waits = reply.send(answer.map_err(|error| Refusal::Unavailable(error.to_string())));
        }));
    }
}

//! A program that is given each alarm as JSON on its standard input.

use std::process::Stdio;

use futures_util::stream::{self, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::Delivered;
use crate::config::sinks::SinkConfig;
use crate::pure::ledger::Due;

/// So much of what it complains about is shown.
const SHOWN: usize = 200;

/// A program.
pub struct Exec {
    config: SinkConfig,
}

impl Exec {
    pub(super) fn new(config: &SinkConfig) -> Self {
        Exec { config: config.clone() }
    }

    pub(super) async fn deliver(&self, batch: Vec<Due>) -> Delivered {
        let runs = batch.into_iter().map(|due| async move {
            let outcome = self.run(&due).await;
            (due, outcome)
        });
        let parallel = usize::try_from(self.config.parallel).unwrap_or(1).max(1);
        Delivered { outcomes: stream::iter(runs).buffer_unordered(parallel).collect().await, retry_after: None }
    }

    /// Runs it once, without a shell. It has taken the alarm if it ends with exit code 0 in time.
    async fn run(&self, due: &Due) -> Result<(), String> {
        let Due::Alarm { notification, .. } = due else { return Ok(()) };
        let input = serde_json::to_vec(notification).map_err(|error| error.to_string())?;
        let Some((program, arguments)) = self.config.command.split_first() else {
            return Err("no program configured".to_owned());
        };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("start {program}: {error}"))?;
        let within = self.config.answer_within();
        let stdin = child.stdin.take();
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // One that does not read it may still do its work.
                let _not_read = stdin.write_all(&input).await;
                let _not_read = stdin.write_all(b"\n").await;
            }
        };
        let run = async { tokio::join!(feed, child.wait_with_output()).1 };
        let Ok(ended) = timeout(within, run).await else {
            return Err(format!("{program} did not end within {}", humantime::format_duration(within)));
        };
        let output = ended.map_err(|error| format!("{program}: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said: String = String::from_utf8_lossy(&output.stderr).chars().take(SHOWN).collect();
        Err(format!("{program}: {}: {}", output.status, said.lines().next().unwrap_or_default()))
    }
}

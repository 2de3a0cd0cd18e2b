//! Receiver that starts a program for each alarm, with the alarm as JSON on its standard input.
//!
//! The main type is [`Exec`]. The exit code of the program decides whether the alarm counts as delivered.

use std::process::Stdio;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use crate::config::document::sinks::SinkConfig;
use crate::io::receiver::delivery::{Delivered, DeliveryError, Outcome};
use crate::pure::alarm::notification::Rendered;
use crate::pure::notify::log::Outbound;

/// Number of octets of the program's standard error that are read and reported.
const SHOWN: usize = 200;
/// Time to wait for standard error after the program exited; later output comes from its children.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Environment variables that the program inherits. The list is short so that it gets none of the agent's secrets.
const ENVIRONMENT: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "USER"];

/// Program receiver, which starts the configured command without a shell.
pub struct Exec {
    config: SinkConfig,
}

impl Exec {
    pub(super) fn new(config: &SinkConfig) -> Self {
        Exec { config: config.clone() }
    }

    pub(super) async fn deliver(&self, batch: Vec<Outbound>) -> Delivered {
        let runs = batch.into_iter().map(|due| async move {
            let outcome = self.run(&due).await;
            (due, outcome)
        });
        let parallel = usize::try_from(self.config.parallel).unwrap_or(1).max(1);
        Delivered { outcomes: stream::iter(runs).buffer_unordered(parallel).collect().await, retry_after: None }
    }

    /// Runs the program once, without a shell. The alarm is delivered if it exits with code 0 within the timeout.
    async fn run(&self, due: &Outbound) -> Outcome {
        let Outbound::Alarm { notification, .. } = due else { return Outcome::Nothing };
        let (mut child, program) = match self.start() {
            Ok(started) => started,
            Err(error) => return Outcome::unreachable(error),
        };
        let mut input = serde_json::to_vec(&Rendered(notification)).unwrap_or_default();
        input.push(b'\n');
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // A program that does not read its input may still do its work.
                let _not_read = stdin.write_all(&input).await;
            }
        };
        let (words, mut said) = tokio::sync::oneshot::channel();
        let listen = actix_rt::spawn(async move {
            let _nobody_asks = words.send(read_stderr(stderr).await);
        });
        let within = self.config.response_timeout();
        let ended = timeout(within, async { tokio::join!(feed, child.wait()).1 }).await;
        let outcome = match ended {
            Ok(Ok(status)) if status.success() => Outcome::Delivered,
            Ok(Ok(status)) => {
                let said = timeout(LAST_WORDS, &mut said).await;
                let said = said.ok().and_then(Result::ok).unwrap_or_default();
                Outcome::Refused(format!("{program}: {status}: {}", said.lines().next().unwrap_or_default()))
            }
            Ok(Err(error)) => Outcome::Unreachable(format!("{program}: {error}")),
            Err(_) => {
                kill_process_group(&mut child).await;
                let within = humantime::format_duration(within);
                Outcome::Refused(format!("{program} did not end within {within}"))
            }
        };
        // Background processes that the program left running are not waited for.
        listen.abort();
        outcome
    }

    fn start(&self) -> Result<(Child, String), DeliveryError> {
        let Some((program, arguments)) = self.config.command.split_first() else {
            return Err(DeliveryError::NotConfigured("program"));
        };
        let environment = ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| DeliveryError::Io(format!("start {program}"), error))?;
        Ok((child, program.clone()))
    }
}

/// Kills the process group of the program, and with it all processes that it started.
async fn kill_process_group(child: &mut Child) {
    if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
        let _ignored = killpg(Pid::from_raw(id), Signal::SIGKILL);
    }
    let _ignored = child.kill().await;
}

/// Reads standard error to its end and returns the first `SHOWN` octets. The rest is discarded, so that a full pipe
/// does not block the program.
async fn read_stderr(stderr: Option<ChildStderr>) -> String {
    let Some(mut stderr) = stderr else { return String::new() };
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read) = stderr.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        let room = SHOWN.saturating_sub(said.len());
        said.extend(&buffer[..read.min(room)]);
    }
    String::from_utf8_lossy(&said).chars().map(|c| if c == '\n' || !c.is_control() { c } else { ' ' }).collect()
}

//! The command `run`: the agent itself.

use std::io::Write as _;

use actix::Actor;

use crate::cli::RunArguments;
use crate::exit::{EXIT_CONFIG, EXIT_FAILURE, EXIT_INTERNAL};
use crate::io::bootstrap_file::BootstrapFile;
use crate::io::state::file;
use crate::io::{log, store, time};
use crate::supervisor::Supervisor;

/// Runs the agent until it is stopped by a signal, and returns its exit code.
pub fn run(arguments: &RunArguments) -> anyhow::Result<i32> {
    let file = BootstrapFile { path: arguments.config.clone(), overrides: arguments.overrides.to_overrides() };
    let bootstrap = match file.read() {
        Ok(bootstrap) => bootstrap,
        Err(findings) => {
            let mut stderr = std::io::stderr().lock();
            for finding in findings {
                writeln!(stderr, "{}: {finding}", finding.level)?;
            }
            return Ok(EXIT_CONFIG);
        }
    };
    log::init(&bootstrap.log);
    tracing::info!(
        host = bootstrap.host,
        store = store::place(&bootstrap.store),
        version = env!("CARGO_PKG_VERSION"),
        "peerpair"
    );
    let _in_use = match file::lock(&bootstrap.state_dir, &bootstrap.host) {
        Ok(Some(lock)) => Some(lock),
        // Two agents would notify the same receivers, and each would mistake the other's notification log for its own.
        Ok(None) => {
            let state_dir = bootstrap.state_dir.display().to_string();
            let help = "stop it, or give each its own host or state_dir";
            tracing::error!(state_dir, help, "another agent of this host name runs here");
            return Ok(EXIT_FAILURE);
        }
        // Notification logs cannot be kept there; the sinks report it when they try.
        Err(_) => None,
    };
    // The time base starts just before the runtime's clock, so that timers end with its slots (see `pace`).
    time::start();
    let system = actix_rt::System::new();
    let code = system.block_on(async {
        let (supervisor, exit_code) = Supervisor::new(file, bootstrap);
        let _supervisor = supervisor.start();
        exit_code.await
    });
    // Dropping the runtime would block on name look-ups and file systems that hang.
    std::mem::forget(system);
    Ok(code.unwrap_or(EXIT_INTERNAL))
}

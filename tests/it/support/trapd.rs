//! A real snmptrapd that has loaded PEERPAIR-MIB, and the traps that it has received. `Trapd` owns the process and
//! its directory.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::{Process, spawn, udp_port, wait_for};

pub struct Trapd {
    directory: TempDir,
    process: Process,
    port: u16,
    /// Content of its configuration file, kept for restarts.
    configuration: String,
}

/// SNMP trap in the form that snmptrapd prints.
#[derive(Clone, Debug, PartialEq)]
pub struct Trap {
    /// Name of the notification, or its OID if no MIB names it.
    pub notification: String,
    /// Varbinds of the trap, in order, as `name = value`.
    pub varbinds: Vec<String>,
}

impl Trap {
    /// Returns the value of the varbind whose name ends with `name`, without its type prefix and quotes.
    pub fn value(&self, name: &str) -> &str {
        let found = self.varbinds.iter().find_map(|varbind| {
            let (found, value) = varbind.split_once(" = ")?;
            found.ends_with(name).then_some(value)
        });
        let found = found.unwrap_or_else(|| panic!("no {name} in {self:?}"));
        found
            .trim_start_matches("STRING: ")
            .trim_start_matches("INTEGER: ")
            .trim_start_matches("Gauge32: ")
            .trim_matches('"')
    }
}

impl Trapd {
    pub fn start() -> Trapd {
        Self::with("authCommunity log public\n")
    }

    /// Starts an snmptrapd with this configuration, in which `DIR` is replaced by its directory.
    pub fn with(configuration: &str) -> Trapd {
        let port = udp_port("127.0.0.1");
        let directory = tempfile::tempdir().expect("a directory");
        let configuration = configuration.replace("DIR", &directory.path().display().to_string());
        let process = run(directory.path(), port, &configuration);
        let trapd = Trapd { directory, process, port, configuration };
        trapd.wait_until_it_listens();
        trapd
    }

    /// Returns the path of a file in its directory.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the bootstrap section of a sink named `noc` that sends to this snmptrapd.
    pub fn sink(&self, profile: &str) -> String {
        format!(
            "[[sink]]\nname = \"noc\"\nkind = \"snmp\"\ntarget = \"127.0.0.1:{}\"\nprofile = \"{profile}\"\n",
            self.port
        )
    }

    /// Returns all traps received so far.
    pub fn traps(&self) -> Vec<Trap> {
        let log = std::fs::read_to_string(self.directory.path().join("traps")).unwrap_or_default();
        let lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(str::trim_end);
        lines.filter_map(|line| line.strip_prefix("TRAP|")).map(parse).collect()
    }

    /// Returns, for every trap received so far whose notification ends with one of `names`, that name.
    pub fn notifications(&self, names: &[&str]) -> Vec<String> {
        let names =
            |trap: &Trap| names.iter().find(|name| trap.notification.ends_with(*name)).map(|name| (*name).to_owned());
        self.traps().iter().filter_map(names).collect()
    }

    /// Waits for the `n`th trap (from 0) whose notification ends with `name`.
    #[track_caller]
    pub fn wait_trap(&self, name: &str, n: usize) -> Trap {
        wait_for(&format!("trap {n} of {name}"), || {
            self.traps().into_iter().filter(|trap| trap.notification.ends_with(name)).nth(n)
        })
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Restarts snmptrapd with another configuration.
    pub fn configure(&mut self, configuration: &str) {
        self.kill();
        configuration.clone_into(&mut self.configuration);
        self.restart();
    }

    pub fn restart(&mut self) {
        self.process = run(self.directory.path(), self.port, &self.configuration);
        self.wait_until_it_listens();
    }

    fn wait_until_it_listens(&self) {
        let port = format!(":{:04X} ", self.port);
        wait_for("snmptrapd", || {
            let sockets = std::fs::read_to_string("/proc/thread-self/net/udp").expect("the table of sockets");
            sockets
                .lines()
                .any(|line| line.split(" 0000").next().is_some_and(|local| local.contains(port.trim_end())))
                .then_some(())
        });
    }
}

impl Drop for Trapd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- traps\n{:#?}\n---", self.traps());
        }
    }
}

fn run(directory: &Path, port: u16, text: &str) -> Process {
    let root = env!("CARGO_MANIFEST_DIR");
    let configuration = directory.join("snmptrapd.conf");
    std::fs::write(&configuration, text).expect("write configuration");
    let traps = File::options().create(true).append(true).open(directory.join("traps")).expect("a file for traps");
    let mut command = Command::new("snmptrapd");
    command
        .env("HOME", directory)
        .env("SNMP_PERSISTENT_DIR", directory)
        .args(["-f", "-Lo", "-n", "-C", "-c"])
        .arg(configuration)
        .args(["-M", &format!("{root}/tests/mibs:{root}/config-examples"), "-m", "SNMPv2-MIB:PEERPAIR-MIB"])
        .args(["-F", "TRAP|%V|%v\\n"])
        .arg(format!("udp:127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(traps)
        .stderr(Stdio::null());
    spawn(&mut command, "snmptrapd")
}

fn parse(line: &str) -> Trap {
    let varbinds: Vec<String> = line.split('|').map(str::to_owned).collect();
    let notification = varbinds.iter().find_map(|varbind| {
        let (name, value) = varbind.split_once(" = ")?;
        (name.ends_with("snmpTrapOID.0")).then(|| value.trim_start_matches("OID: ").to_owned())
    });
    Trap { notification: notification.unwrap_or_default(), varbinds }
}

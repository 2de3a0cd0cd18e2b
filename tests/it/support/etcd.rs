//! A real etcd with its v2 API.

use std::process::{Command, Stdio};

use tempfile::TempDir;

use nix::sys::signal::Signal;

use super::{Process, http, spawn, tcp_port, wait_for};

pub struct Etcd {
    directory: TempDir,
    process: Option<Process>,
    port: u16,
    peer_port: u16,
}

impl Etcd {
    pub fn start() -> Etcd {
        let mut etcd = Etcd::not_started();
        etcd.restart();
        etcd
    }

    /// Its port is chosen, and nothing answers there.
    pub fn not_started() -> Etcd {
        let directory = tempfile::tempdir().expect("a directory");
        Etcd { directory, process: None, port: tcp_port(), peer_port: tcp_port() }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn restart(&mut self) {
        let (client, peer) =
            (format!("http://127.0.0.1:{}", self.port), format!("http://127.0.0.1:{}", self.peer_port));
        let mut command = Command::new("etcd");
        command
            .args(["--enable-v2=true", "--name", "one", "--data-dir"])
            .arg(self.directory.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.process = Some(spawn(&mut command, "etcd-server"));
        wait_for("etcd", || {
            let (status, _) = http(self.port, "GET", "/health", "").ok()?;
            (status == 200).then_some(())
        });
    }

    pub fn kill(&mut self) {
        self.process = None;
    }

    /// It hangs: connections are taken, and nothing is answered.
    pub fn pause(&self) {
        self.process.as_ref().expect("etcd runs").signal(Signal::SIGSTOP);
    }

    pub fn resume(&self) {
        self.process.as_ref().expect("etcd runs").signal(Signal::SIGCONT);
    }

    pub fn put(&self, key: &str, value: &str) {
        let body = format!("value={}", percent_encode(value));
        let path = format!("/v2/keys/peerpair/{key}");
        wait_for("a write to etcd", || {
            let (status, _) = http(self.port, "PUT", &path, &body).ok()?;
            (status == 200 || status == 201).then_some(())
        });
    }

    /// Puts a test under both of its hosts.
    pub fn put_test<const N: usize>(&self, hosts: [&str; N], name: &str, value: &str) {
        for host in hosts {
            self.put(&format!("tests/{host}/{name}"), value);
        }
    }

    pub fn delete(&self, key: &str) {
        let (status, body) = http(self.port, "DELETE", &format!("/v2/keys/peerpair/{key}"), "").expect("etcd");
        assert_eq!(status, 200, "{body}");
    }
}

fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(
            |octet| if octet.is_ascii_alphanumeric() { char::from(octet).to_string() } else { format!("%{octet:02X}") },
        )
        .collect()
}

//! Real etcd servers and clusters as child processes. `Etcd` owns one member with its data directory, and writes
//! documents through either API.

use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Process, http, http_as, spawn, tcp_port, wait_for};

/// Version of etcd, and the API through which the tests write documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    V2Of34,
    V3Of34,
    V3Of35,
}

pub struct Etcd {
    directory: TempDir,
    process: Option<Process>,
    flavour: Flavour,
    name: String,
    port: u16,
    peer_port: u16,
    /// Names and peer addresses of all members, in the form of `--initial-cluster`.
    cluster: String,
    arguments: Vec<String>,
    /// Authentication token that is sent with every v3 request, if authentication is enabled.
    token: Option<String>,
}

impl Etcd {
    pub fn start() -> Etcd {
        Self::of(Flavour::V2Of34)
    }

    pub fn of(flavour: Flavour) -> Etcd {
        Self::with(flavour, &[])
    }

    /// Starts a single etcd with additional command-line arguments, and waits until it is healthy.
    pub fn with(flavour: Flavour, arguments: &[&str]) -> Etcd {
        let mut etcd = Etcd::prepared(flavour, arguments);
        etcd.restart();
        etcd
    }

    /// Returns an etcd whose port is chosen but whose process is not started.
    pub fn not_started() -> Etcd {
        Self::prepared(Flavour::V2Of34, &[])
    }

    pub fn prepared(flavour: Flavour, arguments: &[&str]) -> Etcd {
        let directory = tempfile::tempdir().expect("a directory");
        let peer_port = tcp_port();
        Etcd {
            directory,
            process: None,
            flavour,
            name: "m0".to_owned(),
            port: tcp_port(),
            peer_port,
            cluster: format!("m0=http://127.0.0.1:{peer_port}"),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            token: None,
        }
    }

    /// Starts a cluster of three members, and waits until all of them are healthy.
    pub fn three(flavour: Flavour) -> Vec<Etcd> {
        let quick = ["--heartbeat-interval", "20", "--election-timeout", "200"];
        let mut members: Vec<Etcd> = (0..3).map(|_| Self::prepared(flavour, &quick)).collect();
        let peers: Vec<u16> = members.iter().map(|member| member.peer_port).collect();
        let cluster: Vec<String> =
            peers.iter().enumerate().map(|(n, port)| format!("m{n}=http://127.0.0.1:{port}")).collect();
        for (n, member) in members.iter_mut().enumerate() {
            member.name = format!("m{n}");
            member.cluster = cluster.join(",");
            member.launch();
        }
        members.iter().for_each(Etcd::wait_until_healthy);
        members
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the client port; takes effect at the next start.
    pub fn set_port(&mut self, port: u16) {
        self.port = port;
    }

    pub fn restart(&mut self) {
        self.launch();
        self.wait_until_healthy();
    }

    /// Starts the process, without waiting until the member is healthy.
    pub fn launch(&mut self) {
        let (client, peer) =
            (format!("http://127.0.0.1:{}", self.port), format!("http://127.0.0.1:{}", self.peer_port));
        let mut command = match self.flavour {
            Flavour::V2Of34 | Flavour::V3Of34 => Command::new("etcd"),
            Flavour::V3Of35 => Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/etcd-3.5/etcd")),
        };
        if !self.arguments.iter().any(|argument| argument == "--listen-client-urls") {
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        }
        command
            .args(["--enable-v2=true", "--name", &self.name, "--data-dir"])
            .arg(self.data())
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.cluster])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.process = Some(match self.flavour {
            Flavour::V2Of34 | Flavour::V3Of34 => spawn(&mut command, "etcd-server"),
            Flavour::V3Of35 => {
                Process(command.spawn().unwrap_or_else(|error| panic!("etcd 3.5: {error}; get it with: ./tests/run")))
            }
        });
    }

    pub fn wait_until_healthy(&self) {
        wait_for("etcd", || {
            let (status, _) = http(self.port, "GET", "/health", "").ok()?;
            (status == 200).then_some(())
        });
    }

    fn data(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops the process with SIGTERM, and waits until it has ended.
    pub fn terminate(&mut self) {
        let mut process = self.process.take().expect("etcd runs");
        process.signal(Signal::SIGTERM);
        wait_for("etcd's end", || process.ended());
    }

    /// Runs `meanwhile`, and then restores the data that the store held before it.
    pub fn roll_back(&mut self, meanwhile: impl FnOnce(&Etcd)) {
        let (data, excluded) = (self.data(), self.directory.path().join("aside"));
        self.terminate();
        copy(&data, &excluded);
        self.restart();
        meanwhile(self);
        self.terminate();
        std::fs::remove_dir_all(&data).expect("remove data");
        std::fs::rename(&excluded, &data).expect("restore data");
        self.restart();
    }

    /// Runs `before`, wipes the store and restarts it empty, and then runs `after`.
    pub fn roll_back_to_nothing<T>(&mut self, before: impl FnOnce(&Etcd) -> T, after: impl FnOnce(&Etcd, &T)) {
        let between = before(self);
        self.terminate();
        std::fs::remove_dir_all(self.data()).expect("remove data");
        self.restart();
        after(self, &between);
    }

    /// Adds a command-line argument for the next start; of several with the same name, the last takes effect.
    pub fn set_argument(&mut self, argument: &str) {
        self.arguments.push(argument.to_owned());
    }

    /// Stops the process with SIGSTOP: connections are accepted, but no request is answered.
    pub fn pause(&self) {
        self.process.as_ref().expect("etcd runs").signal(Signal::SIGSTOP);
    }

    pub fn resume(&self) {
        self.process.as_ref().expect("etcd runs").signal(Signal::SIGCONT);
    }

    pub fn put(&self, key: &str, value: &str) {
        match self.flavour {
            Flavour::V2Of34 => self.put_v2(key, value),
            Flavour::V3Of34 | Flavour::V3Of35 => self.put_v3(key, value),
        }
    }

    pub fn put_v2(&self, key: &str, value: &str) {
        let body = format!("value={}", percent_encode(value));
        let path = format!("/v2/keys/peerpair/{key}");
        wait_for("a write to etcd", || {
            let (status, _) = http(self.port, "PUT", &path, &body).ok()?;
            (status == 200 || status == 201).then_some(())
        });
    }

    pub fn put_v3(&self, key: &str, value: &str) {
        let body = json!({"key": whole(key), "value": BASE64.encode(value)});
        wait_for("a write to etcd", || self.query("kv/put", &body).ok());
    }

    /// Writes the document of a test below each of these hosts.
    pub fn put_test<const N: usize>(&self, hosts: [&str; N], name: &str, value: &str) {
        for host in hosts {
            self.put(&format!("tests/{host}/{name}"), value);
        }
    }

    pub fn delete(&self, key: &str) {
        match self.flavour {
            Flavour::V2Of34 => {
                let (status, body) = http(self.port, "DELETE", &format!("/v2/keys/peerpair/{key}"), "").expect("etcd");
                assert_eq!(status, 200, "{body}");
            }
            Flavour::V3Of34 | Flavour::V3Of35 => {
                self.query("kv/deleterange", &json!({"key": whole(key)})).expect("delete");
            }
        }
    }

    /// Returns the value of a v3 key below the prefix, if it exists.
    pub fn get(&self, key: &str) -> Option<String> {
        let answer = self.query("kv/range", &json!({"key": whole(key)})).ok()?;
        let value = BASE64.decode(answer["kvs"][0]["value"].as_str()?).expect("base64");
        Some(String::from_utf8(value).expect("UTF-8"))
    }

    /// Returns the current revision of the v3 store.
    pub fn revision(&self) -> u64 {
        let answer = self.query("kv/range", &json!({"key": whole("x")})).expect("a revision");
        answer["header"]["revision"].as_str().expect("a revision").parse().expect("a number")
    }

    /// Sends a request to the v3 JSON API; an error carries the response body.
    pub fn query(&self, rpc: &str, body: &Value) -> Result<Value, String> {
        let token = self.token.as_ref().map_or(String::new(), |token| format!("Authorization: {token}\r\n"));
        let path = format!("/v3/{rpc}");
        let (status, body) =
            http_as(self.port, "POST", &path, &body.to_string(), &token).map_err(|error| error.to_string())?;
        if status != 200 {
            return Err(body);
        }
        serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))
    }

    /// Enables authentication, with a user `agent` that may read and write below the prefix, and logs in as root.
    pub fn enable_auth(&mut self, password: &str) {
        let steps = [
            ("user/add", json!({"name": "root", "password": "r"})),
            ("role/add", json!({"name": "root"})),
            ("user/grant", json!({"user": "root", "role": "root"})),
            ("role/add", json!({"name": "agent"})),
            (
                "role/grant",
                json!({"name": "agent", "perm": {"permType": "READWRITE",
                       "key": BASE64.encode("/peerpair/"), "range_end": BASE64.encode("/peerpair0")}}),
            ),
            ("user/add", json!({"name": "agent", "password": password})),
            ("user/grant", json!({"user": "agent", "role": "agent"})),
            ("enable", json!({})),
        ];
        for (rpc, body) in steps {
            self.query(&format!("auth/{rpc}"), &body).expect(rpc);
        }
        self.login();
    }

    /// Drops the token, so that later requests are sent without authentication.
    pub fn logout(&mut self) {
        self.token = None;
    }

    /// Obtains a new token, so that later requests are sent as root.
    pub fn login(&mut self) {
        self.token = None;
        let answer =
            wait_for("a token", || self.query("auth/authenticate", &json!({"name": "root", "password": "r"})).ok());
        self.token = Some(answer["token"].as_str().expect("a token").to_owned());
    }
}

fn whole(key: &str) -> String {
    BASE64.encode(format!("/peerpair/{key}"))
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().expect("cp");
    assert!(status.success());
}

fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(
            |octet| if octet.is_ascii_alphanumeric() { char::from(octet).to_string() } else { format!("%{octet:02X}") },
        )
        .collect()
}

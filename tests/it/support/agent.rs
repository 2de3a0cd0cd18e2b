//! An agent as its users run it: the binary with a bootstrap file, a store and a status page. `Agent` owns the
//! process and its directory; dropping it kills the process and, if the test failed, prints the log.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::network::Namespace;
use super::{Process, http, spawn, tcp_port, wait_for, write};

pub struct Agent {
    directory: TempDir,
    process: Process,
    web_port: u16,
    surroundings: Surroundings,
}

/// Where the process of an agent runs.
#[derive(Default)]
struct Surroundings {
    /// Network namespace, if it is not the namespace of the test.
    namespace: Option<String>,
    /// Environment variable in addition to those of the test.
    variable: Option<(String, String)>,
}

impl Agent {
    /// Starts an agent for `host` with a `dir` store that holds `documents`; `more` is appended to the bootstrap
    /// file.
    pub fn with_dir(host: &str, documents: &[(&str, String)], more: &str) -> Agent {
        let directory = tempfile::tempdir().expect("a directory");
        let agent = |path: &str| directory.path().join("documents").join(path);
        std::fs::create_dir_all(agent("")).expect("create directory");
        for (path, text) in documents {
            write(&agent(path), text);
        }
        Self::start(directory, host, "[store]\nkind = \"dir\"\npath = \"documents\"\n", more)
    }

    /// Starts an agent with a `dir` store and further files beside the bootstrap file. A file named `token` becomes
    /// the `token_file` of the status page.
    pub fn with_files(host: &str, documents: &[(&str, String)], more: &str, files: &[(&str, &str)]) -> Agent {
        let directory = with_documents(documents);
        for (name, text) in files {
            write(&directory.path().join(name), text);
        }
        Self::start(directory, host, "[store]\nkind = \"dir\"\npath = \"documents\"\n", more)
    }

    /// Starts an agent like `with_dir`, with this variable in its environment.
    pub fn with_environment(host: &str, documents: &[(&str, String)], more: &str, variable: (&str, &str)) -> Agent {
        let store = "[store]\nkind = \"dir\"\npath = \"documents\"\n";
        let variable = Some((variable.0.to_owned(), variable.1.to_owned()));
        let surroundings = Surroundings { variable, ..Surroundings::default() };
        Self::start_within(surroundings, with_documents(documents), host, store, more)
    }

    /// Starts an agent for `host` in a network namespace, with a `dir` store and with `files` beside the bootstrap
    /// file, readable only by their owner.
    pub fn within(
        namespace: &Namespace,
        host: &str,
        documents: &[(&str, String)],
        more: &str,
        files: &[(&str, &str)],
    ) -> Agent {
        let directory = with_documents(documents);
        for (name, text) in files {
            write(&directory.path().join(name), text);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(directory.path().join(name), mode).expect("its mode");
        }
        let store = "[store]\nkind = \"dir\"\npath = \"documents\"\n";
        let namespace = Some(namespace.name().to_owned());
        let surroundings = Surroundings { namespace, ..Surroundings::default() };
        Self::start_within(surroundings, directory, host, store, more)
    }

    /// Starts an agent for `host` whose store is the etcd at `port` of 127.0.0.1.
    pub fn with_etcd(host: &str, port: u16, more: &str) -> Agent {
        let store =
            format!("[store]\nkind = \"etcd\"\nendpoints = [\"http://127.0.0.1:{port}\"]\nrequest_timeout = \"1s\"\n");
        Self::start(tempfile::tempdir().expect("a directory"), host, &store, more)
    }

    /// Starts an agent for `host` with an etcd store, and with `store` as the lines of its `[store]` section.
    pub fn with_store(host: &str, store: &str, more: &str) -> Agent {
        let store = format!("[store]\nkind = \"etcd\"\n{store}");
        Self::start(tempfile::tempdir().expect("a directory"), host, &store, more)
    }

    /// Starts an agent with an etcd store like `with_store`, and with further files beside the bootstrap file.
    pub fn with_store_and_files(host: &str, store: &str, files: &[(&str, &str)]) -> Agent {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            write(&directory.path().join(name), text);
        }
        Self::start(directory, host, &format!("[store]\nkind = \"etcd\"\n{store}"), "")
    }

    fn start(directory: TempDir, host: &str, store: &str, more: &str) -> Agent {
        Self::start_within(Surroundings::default(), directory, host, store, more)
    }

    fn start_within(surroundings: Surroundings, directory: TempDir, host: &str, store: &str, more: &str) -> Agent {
        let web_port = tcp_port();
        let token = if directory.path().join("token").exists() { "token_file = \"token\"\n" } else { "" };
        let text = format!(
            "host = \"{host}\"\nstate_dir = \"state\"\n{store}[web]\nlisten = \"127.0.0.1:{web_port}\"\n{token}\
             [[sink]]\nname = \"console\"\nkind = \"log\"\n{more}"
        );
        write(&directory.path().join("peerpair.toml"), &text);
        let process = run(directory.path(), &surroundings);
        let agent = Agent { directory, process, web_port, surroundings };
        wait_for("the status page", || agent.get("/healthz"));
        agent
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn web_port(&self) -> u16 {
        self.web_port
    }

    /// Writes a file into the agent's directory, beside the bootstrap file.
    pub fn file(&self, name: &str, text: &str) {
        write(&self.path(name), text);
    }

    /// Writes a document of the agent's `dir` store, at a path within the store.
    pub fn document(&self, path: &str, text: &str) {
        write(&self.path("documents").join(path), text);
    }

    pub fn remove_document(&self, path: &str) {
        std::fs::remove_file(self.path("documents").join(path)).expect("remove document");
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).expect("the log")
    }

    /// Returns the number of log lines that contain `text`.
    pub fn logged(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    /// Returns the number of log lines that report a raised alarm of this kind.
    pub fn raised(&self, kind: &str) -> usize {
        let kind = format!("kind=\"{kind}\"");
        self.log().lines().filter(|line| line.contains("alarm raised") && line.contains(&kind)).count()
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status.json").expect("the status")).expect("JSON")
    }

    /// Returns the body of the agent's page at this path, or `None` if it cannot be reached.
    pub fn get(&self, path: &str) -> Option<String> {
        let get = || http(self.web_port, "GET", path, "");
        let answer = match &self.surroundings.namespace {
            None => get(),
            Some(_) => super::in_namespace_of(self.pid(), get),
        };
        answer.ok().map(|(_, body)| body)
    }

    #[track_caller]
    pub fn wait_status<T>(&self, what: &str, found: impl Fn(&Value) -> Option<T>) -> T {
        wait_for(what, || found(&self.status()))
    }

    /// Waits until test `n` has `condition` in this agent's status as `role`, and returns its part of the status.
    #[track_caller]
    pub fn wait_condition(&self, n: u8, role: &str, condition: &str) -> Value {
        self.wait_status(&format!("test {n} {condition} at its {role}"), |status| {
            test(status, n, role).filter(|test| test["condition"] == condition)
        })
    }

    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    pub fn signal(&self, number: Signal) {
        self.process.signal(number);
    }

    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let process = &mut self.process;
        wait_for("the agent's end", || process.ended())
    }

    /// Kills the process without an orderly stop, as a power failure would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts the agent again with the same directory, and waits for its status page.
    pub fn restart(&mut self) {
        self.process = run(self.directory.path(), &self.surroundings);
        wait_for("the status page", || self.get("/healthz"));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill();
        if std::thread::panicking() {
            eprintln!("--- log of an agent\n{}---", self.log());
        }
    }
}

/// Creates a directory whose `dir` store holds these documents.
fn with_documents(documents: &[(&str, String)]) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::create_dir_all(directory.path().join("documents")).expect("create directory");
    for (path, text) in documents {
        write(&directory.path().join("documents").join(path), text);
    }
    directory
}

/// Returns the part of a status that describes test `n` in `role`, if there is one.
pub fn test(status: &Value, n: u8, role: &str) -> Option<Value> {
    let id = super::id(n);
    status["tests"].as_array()?.iter().find(|test| test["id"] == id.as_str() && test["role"] == role).cloned()
}

fn run(directory: &Path, surroundings: &Surroundings) -> Process {
    let log = File::options().create(true).append(true).open(directory.join("log")).expect("a log file");
    let binary = env!("CARGO_BIN_EXE_peerpair");
    // `ip netns exec` replaces itself by the agent, so that its process ID is the agent's.
    let mut command = match &surroundings.namespace {
        None => Command::new(binary),
        Some(namespace) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace.as_str(), binary]);
            command
        }
    };
    command.arg("run").arg("--config").arg(directory.join("peerpair.toml")).stdin(Stdio::null()).stderr(log);
    command.envs(surroundings.variable.clone());
    spawn(&mut command, "peerpair")
}

//! Agents and their peers as child processes, and functions that wait for their effects. Every process is killed when
//! the test that started it ends.

mod agent;
mod etcd;
pub mod network;
mod receivers;
mod trapd;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

pub use agent::{Agent, test};
pub use etcd::{Etcd, Flavour};
pub use receivers::{Alertmanager, HttpReceiver, MailReceiver, Request, Rsyslog};
pub use trapd::{Trap, Trapd};

/// Upper limit of every wait; a healthy run never reaches it.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// Interval at which a condition is polled while a test waits for it.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Polls a condition until it returns a value; panics with `what` after `DEADLINE`.
#[track_caller]
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Checks repeatedly that a condition holds during this time; panics with `what` otherwise.
#[track_caller]
pub fn stays(what: &str, during: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + during;
    while Instant::now() < end {
        assert!(condition(), "did not stay: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Acquires a lock for tests that measure time or load, so that they run one after the other.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a loopback address that no other test of this process uses.
pub fn address() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    // The process ID in the address separates test runs that happen at the same time.
    format!("127.{}.{}.1", std::process::id() % 200 + 20, n)
}

/// Returns a UDP port that is currently free at this address.
pub fn udp_port(address: &str) -> u16 {
    UdpSocket::bind((address, 0)).and_then(|socket| socket.local_addr()).expect("a free UDP port").port()
}

/// Returns a TCP port that is currently free on 127.0.0.1.
pub fn tcp_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free TCP port");
    listener.local_addr().expect("its address").port()
}

/// Sends one HTTP request to 127.0.0.1, and returns the status code and the body.
pub fn http(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
    http_as(port, method, path, body, "")
}

/// Sends one HTTP request with additional header lines, each of which ends with CRLF.
pub fn http_as(port: u16, method: &str, path: &str, body: &str, more: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let kind = "application/x-www-form-urlencoded";
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{more}\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, body.to_owned()))
}

/// Returns the document of test `n` with defaults for a fast test; `more` is appended to its fields.
pub fn test_document(n: u8, from: (&str, &str), to: (&str, &str), more: &str) -> String {
    format!(
        r#"{{"id":"{}","description":"test {n}","from_host":"{}","from":"{}","to_host":"{}","to":"{}",
            "send_every":"100ms","expect_every":"200ms","raise_after":3,"clear_after":3,"startup_grace":"1s"{more}}}"#,
        id(n),
        from.0,
        from.1,
        to.0,
        to.1
    )
}

/// Returns the test ID whose last octet is `n`.
pub fn id(n: u8) -> String {
    format!("00000000-0000-4000-8000-0000000000{n:02x}")
}

/// Writes a file atomically, by renaming a temporary file, as editors do.
pub fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("create directory");
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, text).expect("write file");
    std::fs::rename(&temporary, path).expect("rename file");
}

/// Child process that is killed when the value is dropped, including when the test panics.
pub struct Process(Child);

/// Runs a closure in the network namespace of a process, on a thread of its own.
pub fn in_namespace_of<T: Send>(pid: Pid, run: impl FnOnce() -> T + Send) -> T {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).expect("a namespace");
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may do that");
            run()
        });
        inside.join().expect("what runs inside")
    })
}

/// Starts a program; panics with the name of the package to install if that fails.
pub fn spawn(command: &mut Command, package: &str) -> Process {
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command.spawn();
    Process(child.unwrap_or_else(|error| panic!("{program}: {error}; install it with: apt-get install {package}")))
}

impl Process {
    /// Sends a signal to the process, which must still be running.
    pub fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(self.pid(), signal).expect("a process of ours that lives");
    }

    /// Returns the process ID.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).expect("a process id"))
    }

    /// Returns the exit status if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("wait")
    }

    /// Kills the process with SIGKILL, and waits until it has ended.
    pub fn kill(&mut self) {
        let _ignored = self.0.kill();
        let _status = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

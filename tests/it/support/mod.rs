//! Agents and their peers as child processes, and ways to wait for what they do.

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

/// Nothing here takes longer unless it is broken.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits for a condition; fails with `what` after the deadline.
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

/// Watches that something stays as it is for a while.
#[track_caller]
pub fn stays(what: &str, during: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + during;
    while Instant::now() < end {
        assert!(condition(), "did not stay: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// For tests that measure time or load: they run one after the other.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A loopback address that no other test of this process uses.
pub fn address() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    // Another run at the same time has other addresses.
    format!("127.{}.{}.1", std::process::id() % 200 + 20, n)
}

/// A UDP port that is free at this address now.
pub fn udp_port(address: &str) -> u16 {
    UdpSocket::bind((address, 0)).and_then(|socket| socket.local_addr()).expect("a free UDP port").port()
}

/// A TCP port that is free on 127.0.0.1 now.
pub fn tcp_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free TCP port");
    listener.local_addr().expect("its address").port()
}

/// One HTTP request to 127.0.0.1: the status and the body.
pub fn http(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
    http_as(port, method, path, body, "")
}

/// The same with more header lines.
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

/// A document of test `n` with good defaults for a quick test, and `more` fields.
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

/// The id of test `n`.
pub fn id(n: u8) -> String {
    format!("00000000-0000-4000-8000-0000000000{n:02x}")
}

/// Writes a file, as editors do: whole.
pub fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("create directory");
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, text).expect("write file");
    std::fs::rename(&temporary, path).expect("rename file");
}

/// A process that ends with the test that started it, however that ends.
pub struct Process(Child);

/// Runs something in the network namespace of a process.
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

/// Starts a program, or says how to get it.
pub fn spawn(command: &mut Command, package: &str) -> Process {
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command.spawn();
    Process(child.unwrap_or_else(|error| panic!("{program}: {error}; install it with: apt-get install {package}")))
}

impl Process {
    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(self.pid(), signal).expect("a process of ours that lives");
    }

    /// Its id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).expect("a process id"))
    }

    /// Its exit status, once it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("wait")
    }

    /// Ends it for good, without a word.
    pub fn kill(&mut self) {
        let _gone_already = self.0.kill();
        let _status = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

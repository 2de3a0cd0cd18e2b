//! Two hosts connected by a virtual cable: network namespaces that the test creates and removes, with packet filter
//! rules. `Relay` delays, duplicates, reorders or drops packets, which nftables cannot do.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use peerpair::pure::base::time::WallTime;
use peerpair::pure::stamp::packet::Probe;

/// IPv4 and IPv6 addresses of the two hosts, a and b.
pub const A: &str = "10.77.0.1";
pub const B: &str = "10.77.0.2";
pub const A6: &str = "fd00:77::1";
pub const B6: &str = "fd00:77::2";

/// Network namespace that stands for one host; it is deleted when the value is dropped.
pub struct Namespace(String);

/// Two network namespaces that are connected by a pair of virtual Ethernet devices.
pub struct Network {
    pub a: Namespace,
    pub b: Namespace,
}

impl Network {
    /// Creates two connected namespaces. Without root privileges, returns `None` and prints that the test is not run.
    pub fn pair() -> Option<Network> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: network namespaces are root's to make");
            return None;
        }
        let name = format!("pp{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let network = Network { a: Namespace::make(&format!("{name}a")), b: Namespace::make(&format!("{name}b")) };
        let (a, b) = (&network.a.0, &network.b.0);
        ip(&["link", "add", "eth0", "netns", a, "type", "veth", "peer", "name", "eth0", "netns", b]);
        for (namespace, v4, v6) in [(&network.a, A, A6), (&network.b, B, B6)] {
            namespace.ip(&["address", "add", &format!("{v4}/24"), "dev", "eth0"]);
            namespace.ip(&["address", "add", &format!("{v6}/64"), "dev", "eth0", "nodad"]);
            namespace.ip(&["link", "set", "eth0", "up"]);
            namespace.ip(&["link", "set", "lo", "up"]);
        }
        Some(network)
    }
}

impl Namespace {
    fn make(name: &str) -> Namespace {
        ip(&["netns", "add", name]);
        Namespace(name.to_owned())
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.0], arguments].concat());
    }

    /// Runs a closure inside the namespace, on a thread of its own.
    pub fn run<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(format!("/run/netns/{}", self.0)).expect("a namespace");
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may do that");
                run()
            });
            inside.join().expect("what runs inside")
        })
    }

    /// Installs an nftables rule for incoming packets, in place of any previous rule.
    pub fn on_input(&self, rule: &str) {
        self.rules("input", rule);
    }

    /// Installs an nftables rule before routing, for rules that modify packets, in place of any previous rule.
    pub fn on_prerouting(&self, rule: &str) {
        self.rules("prerouting", rule);
    }

    /// Installs an nftables rule for outgoing packets: if it drops a packet, the sender's `send` fails.
    pub fn on_output(&self, rule: &str) {
        self.rules("output", rule);
    }

    fn rules(&self, hook: &str, rule: &str) {
        self.heal();
        let table = format!(
            "add table inet pp; add chain inet pp c {{ type filter hook {hook} priority 0; }}; add rule inet pp c {rule}"
        );
        self.nft(&table);
    }

    /// Removes the installed rule, so that all packets pass again.
    pub fn heal(&self) {
        self.nft("add table inet pp; delete table inet pp");
    }

    /// Returns the number of packets that the rule's counter has counted.
    pub fn counted(&self) -> u64 {
        let text = self.nft("list table inet pp");
        let packets = text.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
        packets.and_then(|packets| packets.parse().ok()).expect("a counter")
    }

    fn nft(&self, text: &str) -> String {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, "nft"]).arg(text).stderr(Stdio::inherit());
        let output = command.output().expect("ip; install it with: apt-get install iproute2");
        assert!(output.status.success(), "nft {text} (install it with: apt-get install nftables)");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Returns the local UDP ports that are open in the namespace at an IPv4 address.
    pub fn udp_ports(&self, addr: &str) -> Vec<u16> {
        let wanted = addr.parse::<std::net::Ipv4Addr>().expect("an address");
        let table = self.run(|| std::fs::read_to_string("/proc/thread-self/net/udp").expect("the table of sockets"));
        let port = |line: &str| {
            let (host, port) = line.split_whitespace().nth(1)?.split_once(':')?;
            let host = u32::from_str_radix(host, 16).ok()?.to_le_bytes();
            (std::net::Ipv4Addr::from(host) == wanted).then(|| u16::from_str_radix(port, 16).ok())?
        };
        table.lines().filter_map(port).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ignored = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("ip; install it with: apt-get install iproute2");
    assert!(status.success(), "ip {arguments:?}");
}

/// Action that a relay applies to one packet, chosen by the packet's number.
pub enum Deed {
    /// Forwards the packet after this delay.
    After(Duration),
    /// Forwards the packet twice.
    Twice,
    /// Holds the packet back until the next one has been forwarded.
    Behind,
    /// Drops the packet.
    Lost,
}

/// Receives packets at one address and forwards them to another, on a thread of its own.
pub struct Relay {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    passed: Arc<Mutex<BTreeMap<u32, i64>>>,
}

impl Relay {
    /// Starts the relay in the caller's network namespace, where its sockets and its thread stay.
    pub fn start(listen: &str, to: SocketAddr, deed: impl Fn(u64) -> Deed + Send + 'static) -> Relay {
        let socket = UdpSocket::bind(listen).expect("bind the relay");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let out = UdpSocket::bind((to.ip(), 0)).expect("bind the relay's other side");
        let stopping = Arc::new(AtomicBool::new(false));
        let passed = Arc::new(Mutex::new(BTreeMap::new()));
        let (stop, log) = (stopping.clone(), passed.clone());
        let thread = std::thread::spawn(move || {
            let (mut octets, mut kept, mut n) = ([0; 2048], None::<Vec<u8>>, 0);
            let send = |packet: &[u8]| {
                if let Ok(probe) = Probe::decode(packet) {
                    let delay = WallTime::from(SystemTime::now()).nanos_since(probe.sent);
                    log.lock().expect("the log").insert(probe.sequence, delay);
                }
                drop(out.send_to(packet, to));
            };
            while !stop.load(Ordering::Relaxed) {
                let Ok(len) = socket.recv(&mut octets) else { continue };
                let came = Instant::now();
                let packet = &octets[..len];
                match deed(n) {
                    Deed::After(delay) => {
                        // Spin, because sleeping is not precise enough.
                        while came.elapsed() < delay {
                            std::hint::spin_loop();
                        }
                        send(packet);
                    }
                    Deed::Twice => [packet, packet].into_iter().for_each(send),
                    Deed::Behind => {
                        kept = Some(packet.to_owned());
                        n += 1;
                        continue;
                    }
                    Deed::Lost => {}
                }
                if let Some(kept) = kept.take() {
                    send(&kept);
                }
                n += 1;
            }
        });
        Relay { stopping, thread: Some(thread), passed }
    }

    /// Returns the sequence numbers of the forwarded probes, and the age of each when it was forwarded, in
    /// nanoseconds.
    pub fn passed(&self) -> BTreeMap<u32, i64> {
        self.passed.lock().expect("the log").clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

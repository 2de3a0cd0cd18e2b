//! Two hosts with a cable between them: network namespaces, made and removed by the test, and a relay
//! that does to packets what nftables cannot.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use peerpair::pure::probe::Probe;
use peerpair::pure::time::WallTime;

/// The hosts' addresses.
pub const A: &str = "10.77.0.1";
pub const B: &str = "10.77.0.2";
pub const A6: &str = "fd00:77::1";
pub const B6: &str = "fd00:77::2";

/// A host of its own.
pub struct Namespace(String);

/// Two of them and their cable.
pub struct Network {
    pub a: Namespace,
    pub b: Namespace,
}

impl Network {
    /// Nothing where none can be made, which is said.
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

    /// Runs something inside.
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

    /// What happens to packets that come in, as an nftables rule; replaces the rules before.
    pub fn on_input(&self, rule: &str) {
        self.rules("input", rule);
    }

    /// The same before they are looked at: for rules that change them.
    pub fn on_prerouting(&self, rule: &str) {
        self.rules("prerouting", rule);
    }

    /// The same before they leave: the operating system refuses what is dropped here.
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

    /// Nothing happens to them any more.
    pub fn heal(&self) {
        self.nft("add table inet pp; delete table inet pp");
    }

    /// How many packets the rule's counter saw.
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

    /// The local UDP ports that are open inside at an IPv4 address.
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
        let _gone_already = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("ip; install it with: apt-get install iproute2");
    assert!(status.success(), "ip {arguments:?}");
}

/// What a relay does to the n-th packet.
pub enum Deed {
    /// Passes it on after so long.
    After(Duration),
    /// Passes it on twice.
    Twice,
    /// Keeps it until the next one has gone.
    Behind,
    /// Drops it.
    Lost,
}

/// Takes packets at one address and passes them on to another.
pub struct Relay {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    passed: Arc<Mutex<BTreeMap<u32, i64>>>,
}

impl Relay {
    /// Its socket is bound where this is called, its thread stays there.
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
                        // Sleeping is not exact enough.
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

    /// The sequence numbers of the probes that were passed on, and how old each was by then, in nanoseconds.
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

//! Minimal receivers of webhooks and mail, and a real Alertmanager and rsyslogd. Every receiver listens on free ports
//! of 127.0.0.1 and records what it receives.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use super::{Process, http, spawn, tcp_port, udp_port, wait_for};

/// HTTP request that a receiver has recorded, with the status of its response.
#[derive(Clone, Debug)]
pub struct Request {
    pub line: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
    /// Status code of the response to this request.
    pub status: u16,
    /// IP address from which the request was sent.
    pub peer: String,
}

impl Request {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// HTTP receiver whose response the test can change at any time.
pub struct HttpReceiver {
    port: u16,
    answer: Arc<Mutex<(u16, &'static str)>>,
    /// Text whose presence in a body makes the receiver respond with status 500.
    refused: Arc<Mutex<Option<String>>>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl HttpReceiver {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let answer = Arc::new(Mutex::new((200, "")));
        let receiver = HttpReceiver { port, answer, refused: Arc::default(), requests: Arc::default() };
        let (answer, refused, requests) =
            (receiver.answer.clone(), receiver.refused.clone(), receiver.requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, refused, requests) = (answer.clone(), refused.clone(), requests.clone());
                let answer = move |body: &str| match refused.lock().expect("what is refused").as_deref() {
                    Some(text) if body.contains(text) => (500, ""),
                    _ => *answer.lock().expect("the answer"),
                };
                std::thread::spawn(move || while serve_one(&stream, &answer, &requests).is_some() {});
            }
        });
        receiver
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sets the status and the header lines of all later responses.
    pub fn answer(&self, status: u16, headers: &'static str) {
        *self.answer.lock().expect("the answer") = (status, headers);
    }

    /// Responds with status 500 to every later request whose body contains this text.
    pub fn refuse(&self, text: &str) {
        *self.refused.lock().expect("what is refused") = Some(text.to_owned());
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("the requests").clone()
    }

    /// Returns the requests that were answered with status 200.
    pub fn taken(&self) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.status == 200).collect()
    }
}

fn serve_one(
    stream: &TcpStream,
    answer: &dyn Fn(&str) -> (u16, &'static str),
    requests: &Mutex<Vec<Request>>,
) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length: usize = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8_lossy(&body).into_owned();
    let (status, more) = answer(&body);
    let peer = stream.peer_addr().ok()?.ip().to_string();
    let line = line.trim_end().to_owned();
    requests.lock().expect("the requests").push(Request { line, headers, body, status, peer });
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status} x\r\n{more}Content-Length: 2\r\n\r\n{{}}").ok()
}

/// Real Alertmanager that sends a separate notification for every alert, so that its notifications can be counted.
pub struct Alertmanager {
    _directory: TempDir,
    _process: Process,
    port: u16,
    passes_on: HttpReceiver,
}

impl Alertmanager {
    pub fn start() -> Alertmanager {
        let passes_on = HttpReceiver::start();
        let directory = tempfile::tempdir().expect("a directory");
        let port = tcp_port();
        let configuration = format!(
            "route: {{receiver: all, group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 4h}}\n\
             receivers: [{{name: all, webhook_configs: [{{url: '{}', send_resolved: true}}]}}]\n",
            passes_on.url()
        );
        let file = directory.path().join("alertmanager.yml");
        std::fs::write(&file, configuration).expect("write configuration");
        let log = File::create(directory.path().join("log")).expect("a log file");
        let mut command = Command::new("prometheus-alertmanager");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.path={}", directory.path().display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--cluster.listen-address=")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let process = spawn(&mut command, "prometheus-alertmanager");
        wait_for("Alertmanager", || http(port, "GET", "/-/ready", "").ok().filter(|(status, _)| *status == 200));
        Alertmanager { _directory: directory, _process: process, port, passes_on }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns the status of each of its notifications in order: `firing` or `resolved`.
    pub fn notified(&self) -> Vec<String> {
        let status = |request: Request| request.json()["status"].as_str().unwrap_or_default().to_owned();
        self.passes_on.taken().into_iter().map(status).collect()
    }

    /// Returns the active alerts that match, as `amtool alert query` prints them.
    pub fn query(&self, matcher: &str) -> Vec<Value> {
        let mut command = Command::new("amtool");
        command.args(["alert", "query", "--output=json", "--alertmanager.url", &self.url(), matcher]);
        let output = command.output().expect("amtool; install it with: apt-get install prometheus-alertmanager");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

/// Mail server that accepts every mail and records it.
pub struct MailReceiver {
    port: u16,
    mails: Arc<Mutex<Vec<String>>>,
}

impl MailReceiver {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let receiver = MailReceiver { port, mails: Arc::default() };
        let mails = receiver.mails.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mails = mails.clone();
                std::thread::spawn(move || take_mail(&stream, &mails));
            }
        });
        receiver
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn mails(&self) -> Vec<String> {
        self.mails.lock().expect("the mails").clone()
    }
}

/// Serves one SMTP connection (RFC 5321), with only the commands of an ordinary delivery.
fn take_mail(mut stream: &TcpStream, mails: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    stream.write_all(b"220 mail\r\n").ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.get(..4).unwrap_or_default().to_ascii_uppercase().as_str() {
            "DATA" => {
                stream.write_all(b"354 go on\r\n").ok()?;
                let mut mail = String::new();
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
                    if line == ".\r\n" {
                        break;
                    }
                    mail += line.strip_prefix('.').unwrap_or(&line);
                }
                mails.lock().expect("the mails").push(mail);
                stream.write_all(b"250 taken\r\n").ok()?;
            }
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").ok()?;
                return Some(());
            }
            _ => stream.write_all(b"250 good\r\n").ok()?,
        }
    }
}

/// Real rsyslogd with a UDP port, a TCP port and a port for TLS.
pub struct Rsyslog {
    directory: TempDir,
    _process: Process,
    pub udp: u16,
    pub tcp: u16,
    pub tls: u16,
}

impl Rsyslog {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        // The certificate is self-signed and marked as an authority, like the default of `openssl req -x509`.
        let mut parameters =
            rcgen::CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("names");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        std::fs::write(path("cert.pem"), certificate.pem()).expect("write certificate");
        std::fs::write(path("key.pem"), key.serialize_pem()).expect("write key");
        let (udp, tcp, tls) = (udp_port("127.0.0.1"), tcp_port(), tcp_port());
        let place = directory.path().display();
        let configuration = format!(
            r#"global(workDirectory="{place}" defaultNetstreamDriverCAFile="{place}/cert.pem"
                      defaultNetstreamDriverCertFile="{place}/cert.pem" defaultNetstreamDriverKeyFile="{place}/key.pem")
            module(load="imudp")
            module(load="imtcp")
            template(name="whole" type="string" string="%pri-text%|%hostname%|%app-name%|%msgid%|%structured-data%|%msg%\n")
            action(type="omfile" file="{place}/messages" template="whole")
            input(type="imudp" address="127.0.0.1" port="{udp}")
            input(type="imtcp" address="127.0.0.1" port="{tcp}")
            input(type="imtcp" address="127.0.0.1" port="{tls}"
                  streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="anon")
            "#
        );
        std::fs::write(path("rsyslog.conf"), configuration).expect("write configuration");
        let mut command = Command::new("rsyslogd");
        command
            .args(["-n", "-f"])
            .arg(path("rsyslog.conf"))
            .arg("-i")
            .arg(path("pid"))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let process = spawn(&mut command, "rsyslog rsyslog-gnutls");
        for port in [tcp, tls] {
            wait_for("rsyslogd (is rsyslog-gnutls installed?)", || TcpStream::connect(("127.0.0.1", port)).ok());
        }
        Rsyslog { directory, _process: process, udp, tcp, tls }
    }

    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("cert.pem")
    }

    /// Returns the lines that rsyslogd has written so far.
    pub fn messages(&self) -> Vec<String> {
        lines(&self.directory.path().join("messages"))
    }
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

//! TLS of the receivers, against a server of this test: the client certificate, and a server's certificate that is a
//! CA certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedKey, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::document::sinks::Transport;
use crate::io::state::engine_boots::{Engine, EngineRole};
use crate::pure::alarm::key::{AlarmKey, Kind, Subject};
use crate::pure::alarm::list::cleared_notification;
use crate::pure::base::time::Now;
use crate::pure::notify::log::NotifyReason;
use crate::pure::test::id::TestId;

/// Certificate and key, with the files that hold them.
struct Pair {
    certified: CertifiedKey<KeyPair>,
    cert_file: PathBuf,
    key_file: PathBuf,
}

impl Pair {
    /// Creates a self-signed certificate for 127.0.0.1.
    fn new(directory: &Path, name: &str, is_ca: IsCa) -> Pair {
        let signing_key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        parameters.is_ca = is_ca;
        let cert = parameters.self_signed(&signing_key).unwrap();
        let (cert_file, key_file) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        std::fs::write(&cert_file, cert.pem()).unwrap();
        std::fs::write(&key_file, signing_key.serialize_pem()).unwrap();
        Pair { certified: CertifiedKey { cert, signing_key }, cert_file, key_file }
    }
}

/// TLS server that accepts one connection.
struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Server {
    /// Starts a server with this certificate, which requires the certificate `client` if there is one.
    async fn start(own: &Pair, client: Option<&Pair>) -> Server {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = match client {
            None => builder.unwrap().with_no_client_auth(),
            Some(client) => {
                let mut roots = RootCertStore::empty();
                roots.add(client.certified.cert.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.unwrap().with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::try_from(own.certified.signing_key.serialize_der()).unwrap();
        let config = builder.with_single_cert(vec![own.certified.cert.der().clone()], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Server { listener, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }

    /// Returns the outcome of one alarm that a receiver with this configuration delivers to the server.
    async fn outcome(&self, config: SinkConfig) -> Outcome {
        let port = self.listener.local_addr().unwrap().port();
        let config = SinkConfig {
            url: format!("https://127.0.0.1:{port}/"),
            target: format!("127.0.0.1:{port}"),
            transport: Some(Transport::Tls),
            proxy: Some(String::new()),
            from: "peerpair@example.org".to_owned(),
            to: vec!["noc@example.org".to_owned()],
            ..config
        };
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity {
            agent: "a".into(),
            config_server: "dir".into(),
            page: "".into(),
            former: [].into(),
            machine: "".into(),
            engine: Engine::new(directory.path(), "a", EngineRole::Agent),
        };
        let mut receiver = Receiver::new(&config, &identity);
        let key = AlarmKey::new(Kind::Loss, Subject::Test(TestId::from_bytes([1; 16])));
        let notification = Arc::new(cleared_notification("a", &key, Now::default()));
        let due = Outbound::Alarm { notification, reason: NotifyReason::First, still_raised: None };
        let serve = async {
            let (stream, _) = self.listener.accept().await.unwrap();
            let mut stream = self.acceptor.accept(stream).await.ok()?;
            let mut request = [0; 4096];
            let read = stream.read(&mut request).await.ok()?;
            if request[..read].starts_with(b"POST") {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.ok()?;
            }
            // A receiver of syslog learns from a closed stream that its messages may be lost.
            Some(stream)
        };
        let (mut delivered, _stream) = tokio::join!(receiver.deliver(vec![due]), serve);
        delivered.outcomes.remove(0).1
    }
}

const OVER_TLS: [SinkKind; 3] = [SinkKind::Alertmanager, SinkKind::Webhook, SinkKind::Syslog];

#[tokio::test]
async fn client_certificate_is_presented_by_every_receiver_that_has_one() {
    let directory = tempfile::tempdir().unwrap();
    let own = Pair::new(directory.path(), "server", IsCa::NoCa);
    let client = Pair::new(directory.path(), "client", IsCa::NoCa);
    let server = Server::start(&own, Some(&client)).await;
    for kind in OVER_TLS {
        let without = SinkConfig { kind, ca_file: Some(own.cert_file.clone()), ..SinkConfig::default() };
        let with = SinkConfig {
            cert_file: Some(client.cert_file.clone()),
            key_file: Some(client.key_file.clone()),
            ..without.clone()
        };
        assert_eq!(server.outcome(with).await, Outcome::Delivered, "{kind:?}");
        assert!(matches!(server.outcome(without).await, Outcome::Unreachable(_)), "{kind:?}");
    }
}

/// The usual instructions for a self-signed certificate produce a CA certificate.
#[tokio::test]
async fn ca_certificate_of_a_server_is_accepted_if_listed_and_explained_for_mail() {
    let directory = tempfile::tempdir().unwrap();
    let own = Pair::new(directory.path(), "server", IsCa::Ca(BasicConstraints::Unconstrained));
    let server = Server::start(&own, None).await;
    let listed = |kind| SinkConfig { kind, ca_file: Some(own.cert_file.clone()), ..SinkConfig::default() };
    for kind in OVER_TLS {
        assert_eq!(server.outcome(listed(kind)).await, Outcome::Delivered, "{kind:?}");
    }
    let outcome = server.outcome(listed(SinkKind::Email)).await;
    let explained = matches!(&outcome, Outcome::Unreachable(problem) if problem.contains("basicConstraints=CA:FALSE"));
    assert!(explained, "{outcome:?}");
}

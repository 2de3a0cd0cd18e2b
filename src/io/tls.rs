//! TLS client configurations: which certificates of servers this host trusts, and which it presents itself.
//!
//! The HTTP and syslog receivers, the etcd store and the API client use these configurations.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme, WantsVerifier};
use rustls_platform_verifier::BuilderVerifierExt;
use x509_cert::der::Decode as _;

use crate::pure::base::time::WallTime;

/// Reason for which TLS cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that the configuration names is unusable; the field names it.
    #[error("{field} {}: {source}", path.display())]
    File {
        /// Field of the configuration.
        field: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Reason for which it is unusable.
        source: CertificateError,
    },
    /// Certificate and key do not belong together.
    #[error("cert_file {} and key_file {}: {source}", cert_file.display(), key_file.display())]
    Identity {
        /// File of the client's certificate chain.
        cert_file: PathBuf,
        /// File of its key.
        key_file: PathBuf,
        /// Reason of the refusal.
        source: rustls::Error,
    },
    /// The certificates that this host trusts cannot be read.
    #[error("TLS: certificates of this host: {0}")]
    Host(rustls::Error),
    /// The TLS library refuses its own defaults.
    #[error("TLS: {0}")]
    Library(rustls::Error),
}

/// Reason for which a file of certificates or keys is unusable.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file cannot be read, or is not PEM.
    #[error("{0}")]
    Pem(#[from] pem::Error),
    /// The file holds no certificate.
    #[error("no certificate in it")]
    Empty,
    /// A certificate is malformed.
    #[error("{0}")]
    Malformed(#[from] x509_cert::der::Error),
    /// A certificate cannot be trusted as a root.
    #[error("{0}")]
    Untrusted(#[from] rustls::Error),
    /// The certificates cannot verify others.
    #[error("{0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl CertificateError {
    fn of(self, field: &'static str, path: &Path) -> TlsError {
        TlsError::File { field, path: path.to_owned(), source: self }
    }
}

/// Returns the configuration for requests to this URL. A URL without TLS needs no root certificates, and a host may
/// have none installed.
pub fn for_url(url: &str, ca_file: Option<&Path>, identity: Option<(&Path, &Path)>) -> Result<ClientConfig, TlsError> {
    if url.starts_with("https:") {
        return client_with(ca_file, identity);
    }
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// Returns a configuration that trusts the certificates in `ca_file`, or by default those that this host trusts.
pub fn client(ca_file: Option<&Path>) -> Result<ClientConfig, TlsError> {
    Ok(trusting(ca_file)?.with_no_client_auth())
}

/// Returns a configuration like [`client`] that also presents a client certificate; `identity` names the files of its
/// chain and its key.
pub fn client_with(ca_file: Option<&Path>, identity: Option<(&Path, &Path)>) -> Result<ClientConfig, TlsError> {
    let Some((cert_file, key_file)) = identity else { return client(ca_file) };
    let chain = certificates(cert_file).map_err(|error| error.of("cert_file", cert_file))?;
    let key = PrivateKeyDer::from_pem_file(key_file)
        .map_err(|error| CertificateError::from(error).of("key_file", key_file))?;
    trusting(ca_file)?.with_client_auth_cert(chain, key).map_err(|source| TlsError::Identity {
        cert_file: cert_file.to_owned(),
        key_file: key_file.to_owned(),
        source,
    })
}

/// Reads the certificates of a file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)?.collect::<Result<_, _>>()?;
    if certificates.is_empty() { Err(CertificateError::Empty) } else { Ok(certificates) }
}

/// Returns the time at which the first of the certificates in a file expires.
pub fn valid_until(path: &Path) -> Result<WallTime, CertificateError> {
    let mut first: Option<WallTime> = None;
    for certificate in certificates(path)? {
        let certificate = x509_cert::Certificate::from_der(&certificate)?;
        let until = WallTime::from(certificate.tbs_certificate.validity.not_after.to_system_time());
        first = Some(first.map_or(until, |first| first.min(until)));
    }
    first.ok_or(CertificateError::Empty)
}

fn trusting(ca_file: Option<&Path>) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    let Some(path) = ca_file else {
        return builder()?.with_platform_verifier().map_err(TlsError::Host);
    };
    let verifier = ListedCertVerifier::read(path).map_err(|error| error.of("ca_file", path))?;
    Ok(builder()?.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

/// Verifier that trusts certificates signed by those in `ca_file`, and the listed certificates themselves. The
/// self-signed certificate of a server is often marked as a CA certificate, which the standard verifier rejects as a
/// server's own.
#[derive(Debug)]
struct ListedCertVerifier {
    chains: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ListedCertVerifier {
    /// Reads the certificates in `ca_file`.
    fn read(ca_file: &Path) -> Result<Self, CertificateError> {
        let named = certificates(ca_file)?;
        let mut roots = RootCertStore::empty();
        for certificate in &named {
            roots.add(certificate.clone())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        Ok(ListedCertVerifier { chains, named })
    }

    /// Returns whether this certificate itself is listed in `ca_file`, matches the server's name and is valid at
    /// `now`.
    fn is_named(&self, certificate: &CertificateDer<'_>, server: &ServerName<'_>, now: UnixTime) -> bool {
        let is_of_server = || {
            let parsed = ParsedCertificate::try_from(certificate)?;
            verify_server_name(&parsed, server)
        };
        let lasts = x509_cert::Certificate::from_der(certificate).is_ok_and(|certificate| {
            let validity = certificate.tbs_certificate.validity;
            let seconds = now.as_secs();
            (validity.not_before.to_unix_duration().as_secs()..=validity.not_after.to_unix_duration().as_secs())
                .contains(&seconds)
        });
        self.named.iter().any(|named| named == certificate) && is_of_server().is_ok() && lasts
    }
}

impl ServerCertVerifier for ListedCertVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.chains.verify_server_cert(certificate, intermediates, server, ocsp, now);
        match verified {
            Err(_) if self.is_named(certificate, server, now) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    builder.with_safe_default_protocol_versions().map_err(TlsError::Library)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn listed_certificate_is_trusted_for_its_name_while_it_is_valid() {
        let listed = |name: &str| {
            let certified = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            certified.cert.der().clone()
        };
        let (ours, other) = (listed("noc.example"), listed("noc.example"));
        let mut roots = RootCertStore::empty();
        roots.add(ours.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let verifier = ListedCertVerifier { chains, named: vec![ours.clone()] };
        let is_named = |certificate, name: &str, seconds| {
            let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            verifier.is_named(certificate, &ServerName::try_from(name).unwrap(), now)
        };
        assert!(is_named(&ours, "noc.example", 1_700_000_000));
        assert!(!is_named(&ours, "other.example", 1_700_000_000));
        assert!(!is_named(&other, "noc.example", 1_700_000_000));
        assert!(!is_named(&ours, "noc.example", 0));
    }
}

//! TLS client configurations: which certificates of servers this host trusts, and which it presents itself.
//!
//! The HTTP and syslog receivers, the etcd store and the API client use these configurations.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme, WantsVerifier};
use rustls_platform_verifier::BuilderVerifierExt;
use x509_cert::der::Decode as _;

use crate::pure::base::time::WallTime;

/// Returns the configuration for requests to this URL. A URL without TLS needs no root certificates, and a host may
/// have none installed.
pub fn for_url(url: &str, ca_file: Option<&Path>, identity: Option<(&Path, &Path)>) -> Result<ClientConfig, String> {
    if url.starts_with("https:") {
        return client_with(ca_file, identity);
    }
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// Returns a configuration that trusts the certificates in `ca_file`, or by default those that this host trusts.
pub fn client(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    Ok(trusting(ca_file)?.with_no_client_auth())
}

/// Returns a configuration like [`client`] that also presents a client certificate; `identity` names the files of its
/// chain and its key.
pub fn client_with(ca_file: Option<&Path>, identity: Option<(&Path, &Path)>) -> Result<ClientConfig, String> {
    let Some((cert_file, key_file)) = identity else { return client(ca_file) };
    let certificate = |problem: String| format!("cert_file {}: {problem}", cert_file.display());
    let chain = CertificateDer::pem_file_iter(cert_file).map_err(|error| certificate(error.to_string()))?;
    let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(|error| certificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(certificate("no certificate in it".to_owned()));
    }
    let key =
        PrivateKeyDer::from_pem_file(key_file).map_err(|error| format!("key_file {}: {error}", key_file.display()))?;
    trusting(ca_file)?
        .with_client_auth_cert(chain, key)
        .map_err(|error| format!("cert_file {} and key_file {}: {error}", cert_file.display(), key_file.display()))
}

/// Returns the time at which the first of the certificates in a file expires.
pub fn valid_until(path: &Path) -> Result<WallTime, String> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let mut first: Option<WallTime> = None;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| error.to_string())?;
        let certificate = x509_cert::Certificate::from_der(&certificate).map_err(|error| error.to_string())?;
        let until = WallTime::from(certificate.tbs_certificate.validity.not_after.to_system_time());
        first = Some(first.map_or(until, |first| first.min(until)));
    }
    first.ok_or_else(|| "no certificate in it".to_owned())
}

fn trusting(ca_file: Option<&Path>) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
    let Some(path) = ca_file else {
        let trusting = builder()?.with_platform_verifier();
        return trusting.map_err(|error| format!("TLS: certificates of this host: {error}"));
    };
    let failed = |problem: String| format!("ca_file {}: {problem}", path.display());
    let (mut roots, mut named) = (RootCertStore::empty(), Vec::new());
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))? {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        named.push(certificate.clone());
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(failed("no certificate in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
    let chains = chains.build().map_err(|error| failed(error.to_string()))?;
    Ok(builder()?.dangerous().with_custom_certificate_verifier(Arc::new(ListedCertVerifier { chains, named })))
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

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    builder.with_safe_default_protocol_versions().map_err(|error| format!("TLS: {error}"))
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

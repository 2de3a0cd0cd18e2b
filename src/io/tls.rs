//! Whom this host trusts when it speaks TLS.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_platform_verifier::BuilderVerifierExt;

/// For requests to this URL: one without TLS needs no certificates, and a host may have none.
pub fn for_url(url: &str, ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    if url.starts_with("https:") {
        return client(ca_file);
    }
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// A client that trusts the certificates in `ca_file`, or whom this host trusts.
pub fn client(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let Some(path) = ca_file else {
        let trusting = builder()?.with_platform_verifier();
        return Ok(trusting.map_err(|error| format!("TLS: certificates of this host: {error}"))?.with_no_client_auth());
    };
    let failed = |problem: String| format!("ca_file {}: {problem}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))? {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(failed("no certificate in it".to_owned()));
    }
    Ok(builder()?.with_root_certificates(roots).with_no_client_auth())
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    builder.with_safe_default_protocol_versions().map_err(|error| format!("TLS: {error}"))
}

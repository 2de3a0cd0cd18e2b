//! Errors of etcd requests, classified by their consequence for the next attempt. [`Fault`] carries the problem and its
//! [`FaultKind`]: try another member, get a token, list again, or wait for an operator. Several versions of etcd and
//! its JSON gateway report the same error in different shapes.

use serde::Deserialize;
use serde_json::Value;

/// Failure of a request to etcd, as one human-readable line with its classification.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct Fault {
    /// Consequence of the fault for the next attempt.
    pub kind: FaultKind,
    /// Human-readable description, which names the fix where it is known.
    pub problem: String,
}

/// Consequence of a fault for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Failure of one member; another member may succeed.
    Member,
    /// Request, user or configuration is refused; every member would answer alike.
    Access,
    /// Authentication token is missing or no longer valid.
    Token,
    /// User is configured, but authentication is disabled in etcd.
    NoAuthentication,
    /// Server does not offer this API; the fault is no statement about a key.
    Api,
    /// Requested revision has been compacted, so the changes since then are no longer available.
    Compacted,
}

impl Fault {
    /// Creates a fault of kind [`FaultKind::Access`], which no other member can mend.
    pub fn access(problem: String) -> Self {
        Fault { kind: FaultKind::Access, problem }
    }

    /// Creates a fault of kind [`FaultKind::Api`], for a server that does not offer the API.
    pub fn api(problem: String) -> Self {
        Fault { kind: FaultKind::Api, problem }
    }
}

/// gRPC status codes that are classified by number.
const NOT_FOUND: u64 = 5;
const PERMISSION_DENIED: u64 = 7;
const OUT_OF_RANGE: u64 = 11;
const UNAVAILABLE: u64 = 14;
const UNAUTHENTICATED: u64 = 16;

/// Error of the v3 gateway. Its shape differs between versions, and between responses and streams.
#[derive(Default, Deserialize)]
#[serde(default)]
struct StoreRefusal {
    error: Value,
    message: String,
    code: u64,
    grpc_code: u64,
}

/// Classifies an error response of the v3 gateway; `with_certificate` is true if the agent presented a client
/// certificate.
pub fn classify(status: u16, body: &[u8], with_certificate: bool) -> Fault {
    let refusal: StoreRefusal = match serde_json::from_slice(body) {
        Ok(refusal) => refusal,
        Err(_) => return tell_text_apart(status, &String::from_utf8_lossy(body)),
    };
    of_refusal(refusal, with_certificate)
}

/// Classifies the `error` field of a line in a watch stream.
pub fn classify_stream(error: &Value) -> Fault {
    let refusal = match error.as_str() {
        Some(message) => StoreRefusal { message: message.to_owned(), ..StoreRefusal::default() },
        None => serde_json::from_value(error.clone()).unwrap_or_default(),
    };
    of_refusal(refusal, false)
}

fn of_refusal(refusal: StoreRefusal, with_certificate: bool) -> Fault {
    let inner = refusal.error.as_str().unwrap_or_default();
    let message = if refusal.message.is_empty() { inner } else { &refusal.message };
    let code = refusal.code.max(refusal.grpc_code);
    let notified = |kind, problem: String| Fault { kind, problem };
    let wants_token = [
        "invalid auth token",
        "user name is empty",
        "user name not found",
        // Signed tokens become invalid after any change of the users.
        "revision of auth store is old",
        "revision in header is old",
    ];
    if code == UNAUTHENTICATED || wants_token.iter().any(|words| message.contains(words)) {
        return notified(FaultKind::Token, message.to_owned());
    }
    if message.contains("authentication is not enabled") {
        return notified(FaultKind::NoAuthentication, message.to_owned());
    }
    if code == OUT_OF_RANGE || message.contains("has been compacted") {
        return notified(FaultKind::Compacted, message.to_owned());
    }
    let gateway = ["connection closed", "tls: bad certificate", "tls: certificate required"];
    if code == UNAVAILABLE && with_certificate && gateway.iter().any(|words| message.contains(words)) {
        let problem = "etcd's JSON gateway cannot reach etcd itself: the server's own certificate lacks the extended \
                       key usage clientAuth, which --client-cert-auth asks of it too; issue it with serverAuth and \
                       clientAuth";
        return notified(FaultKind::Member, problem.to_owned());
    }
    if message.contains("database space exceeded") {
        let problem = "etcd's database is full and takes no writes; compact and defragment it, then clear the alarm";
        return notified(FaultKind::Access, problem.to_owned());
    }
    let kind = match code {
        PERMISSION_DENIED | NOT_FOUND => FaultKind::Access,
        // Codes 3 and 9 are INVALID_ARGUMENT and FAILED_PRECONDITION; etcd reports a wrong password as the former.
        3 | 9 => FaultKind::Access,
        _ => FaultKind::Member,
    };
    notified(kind, format!("{message} (etcd's code {code})"))
}

fn tell_text_apart(status: u16, text: &str) -> Fault {
    let text = text.trim();
    if text.contains("CommonName of client") {
        let problem = "etcd's JSON gateway refuses client certificates with a common name while etcd's authentication \
                       is on; use one without a CN, and [store.auth] for the user";
        return Fault::access(problem.to_owned());
    }
    match status {
        404 | 405 => Fault::api(format!("HTTP status {status}: {text}")),
        400..=499 => Fault::access(format!("HTTP status {status}: {text}")),
        _ => Fault { kind: FaultKind::Member, problem: format!("HTTP status {status}: {text}") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_responses_of_all_etcd_versions_are_classified() {
        let kind = |status, body: &str| classify(status, body.as_bytes(), true).kind;
        let old = r#"{"error":"etcdserver: invalid auth token","message":"etcdserver: invalid auth token","code":16}"#;
        assert_eq!(kind(401, old), FaultKind::Token);
        assert_eq!(kind(401, r#"{"code":16,"message":"etcdserver: invalid auth token"}"#), FaultKind::Token);
        assert_eq!(kind(400, r#"{"error":"etcdserver: user name is empty","code":3}"#), FaultKind::Token);
        assert_eq!(kind(403, r#"{"error":"etcdserver: permission denied","code":7}"#), FaultKind::Access);
        assert_eq!(kind(400, r#"{"error":"etcdserver: authentication failed","code":3}"#), FaultKind::Access);
        let compacted = r#"{"error":"etcdserver: mvcc: required revision has been compacted","code":11}"#;
        assert_eq!(kind(400, compacted), FaultKind::Compacted);
        assert_eq!(kind(503, r#"{"error":"etcdserver: no leader","code":14}"#), FaultKind::Member);
        assert_eq!(kind(404, "404 page not found\n"), FaultKind::Api);
        assert_eq!(kind(405, "Method Not Allowed"), FaultKind::Api);
        assert_eq!(kind(502, "<html>bad gateway</html>"), FaultKind::Member);
    }

    #[test]
    fn mutual_tls_misconfigurations_are_explained() {
        let gateway = classify(503, br#"{"error":"connection closed","code":14}"#, true);
        assert!(gateway.problem.contains("clientAuth"), "{gateway}");
        let newer = br#"{"error":"connection error: desc = \"transport: authentication handshake failed: remote error: tls: bad certificate\"","code":14}"#;
        assert_eq!(classify(503, newer, true), gateway);
        let name = b"CommonName of client sending a request against gateway will be ignored and not used as expected";
        let name = classify(400, name, true);
        assert_eq!(name.kind, FaultKind::Access);
        assert!(name.problem.contains("without a CN"), "{name}");
    }

    #[test]
    fn error_in_watch_stream_is_classified() {
        let error: Value = serde_json::from_str(
            r#"{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader","http_status":"Service Unavailable"}"#,
        )
        .unwrap();
        assert_eq!(classify_stream(&error).kind, FaultKind::Member);
    }
}

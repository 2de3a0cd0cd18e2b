//! Reader of the HTTP body of a watch, which carries one JSON object a line. [`Stream`] splits the octets into lines as
//! they arrive and records when they did, so that a dead stream can be detected.

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use reqwest::Response;
use tokio::time::Instant;

use crate::io::store::etcd::cluster::Cluster;
use crate::io::store::etcd::fault::{Fault, FaultKind};

/// Limit in octets on a line. A longer line cannot be etcd's, whose events have at most 1.5 MiB.
const LONGEST_LINE: usize = 64 << 20;

/// Open watch stream, with the octets of a line that is not complete yet.
pub struct WatchStream {
    chunks: BoxStream<'static, reqwest::Result<Vec<u8>>>,
    pending: Vec<u8>,
    ended: bool,
    /// Time at which the last octets arrived.
    pub heard: Instant,
    /// Time at which the stream was opened.
    pub opened: Instant,
    /// Number of watches that the server has not confirmed yet.
    pub awaited: usize,
}

impl WatchStream {
    /// Wraps the body of a response that has just begun, for the given number of requested watches.
    pub fn new(response: Response, watches: usize) -> Self {
        let chunks = response.bytes_stream().map(|chunk| chunk.map(|chunk| chunk.to_vec())).boxed();
        let now = Instant::now();
        WatchStream { chunks, pending: Vec::new(), ended: false, heard: now, opened: now, awaited: watches }
    }

    /// Returns the next non-empty line; the last line may lack its newline.
    pub async fn next_line(&mut self, cluster: &Cluster) -> Result<Vec<u8>, Fault> {
        loop {
            if let Some(newline) = self.pending.iter().position(|&octet| octet == b'\n') {
                let rest = self.pending.split_off(newline + 1);
                let line = std::mem::replace(&mut self.pending, rest);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return Ok(line);
            }
            if self.ended {
                return match std::mem::take(&mut self.pending) {
                    rest if rest.trim_ascii().is_empty() => {
                        Err(Fault { kind: FaultKind::Member, problem: "etcd ended the watch".to_owned() })
                    }
                    rest => Ok(rest),
                };
            }
            match self.chunks.next().await {
                Some(Ok(chunk)) => {
                    self.heard = Instant::now();
                    self.pending.extend(chunk);
                    if self.pending.len() > LONGEST_LINE {
                        return Err(Fault::api("a line of the watch has no end".to_owned()));
                    }
                }
                Some(Err(error)) => return Err(cluster.unreachable(&error)),
                None => self.ended = true,
            }
        }
    }
}

//! Polling interval of a socket. Waking up is expensive, and the kernel timestamps datagrams on arrival. A wake-up
//! per datagram is therefore worthwhile only if few datagrams arrive or if they have to be answered.
//!
//! [`AdaptivePoll`] measures the rate and returns when to read the socket next.

use std::time::Duration;

use super::time::Moment;

/// Time of the next read of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextRead {
    /// Read again immediately, because the socket was not drained.
    AtOnce,
    /// Read at this time, regardless of arrivals until then.
    At(Moment),
    /// Read as soon as the socket is readable.
    WhenReady,
}

/// Rate in datagrams per second up to which every datagram causes a wake-up.
const CALM: f64 = 10.0;
/// Rate in datagrams per second above which even sockets with answered datagrams are polled.
const BUSY: f64 = 1_000.0;
/// Target number of datagrams per poll. It is chosen so that the smallest receive buffer holds a multiple of it.
const PACKETS_PER_POLL: f64 = 40.0;
/// Shortest interval between two polls of a socket.
const SHORTEST: Duration = Duration::from_millis(4);
/// Longest interval between two polls of a socket. Other periodic work uses multiples of it too, so that all of it
/// shares wake-ups. It equals three slots of tokio's timer wheel: a timer that ends with its slot causes one wake-up,
/// any other of this length two.
pub const LONGEST: Duration = Duration::from_millis(192);
/// Interval of about one second (960 ms) that is a multiple of `LONGEST`.
pub const SECOND: Duration = LONGEST.saturating_mul(5);
/// Minimum time over which the rate of arrival is measured.
const WINDOW: Duration = Duration::from_millis(500);
/// Time after an answer during which further requests are expected.
const ANSWER_LINGER: Duration = Duration::from_secs(10);

/// Measured rate of arrival at a socket, and the polling interval derived from it.
#[derive(Clone, Debug)]
pub struct AdaptivePoll {
    since: Moment,
    packets: u64,
    answered: u64,
    /// End of the last measuring window in which at least one datagram was answered.
    last_answer: Option<Moment>,
    /// Interval between two polls; `None` if every datagram causes a wake-up.
    pause: Option<Duration>,
}

impl AdaptivePoll {
    /// Creates the state of a socket that has not received anything yet.
    pub fn new(now: Moment) -> Self {
        AdaptivePoll { since: now, packets: 0, answered: 0, last_answer: None, pause: None }
    }

    /// Returns when to read the socket next, after it has been drained. `packets` and `answered` are running totals
    /// of the datagrams received and answered.
    pub fn on_drained(&mut self, now: Moment, packets: u64, answered: u64) -> NextRead {
        let took = now.since(self.since);
        if took >= WINDOW {
            let rate = packets.saturating_sub(self.packets) as f64 / took.as_secs_f64();
            if answered != self.answered {
                self.last_answer = Some(now);
            }
            let answers = self.last_answer.is_some_and(|last| now.since(last) < ANSWER_LINGER);
            let may_wait = rate > BUSY || (rate > CALM && !answers);
            self.pause = may_wait.then(|| Duration::from_secs_f64(PACKETS_PER_POLL / rate).clamp(SHORTEST, LONGEST));
            (self.since, self.packets, self.answered) = (now, packets, answered);
        }
        match self.pause {
            Some(pause) => NextRead::At(now.next_multiple_of(pause)),
            None => NextRead::WhenReady,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the polling interval after two seconds at the given rate.
    fn pause_at(rate: u64, answers: bool) -> Option<Duration> {
        let at = |millis| Moment::new(Duration::from_millis(millis));
        let mut pace = AdaptivePoll::new(at(0));
        for millis in (1..=2000).step_by(3) {
            let packets = rate * millis / 1000;
            pace.on_drained(at(millis), packets, if answers { packets } else { 0 });
        }
        pace.pause
    }

    #[test]
    fn polling_interval_shrinks_with_rate_and_low_rate_is_not_polled() {
        let millis = |millis| Some(Duration::from_millis(millis));
        assert_eq!(pause_at(5, false), None);
        assert_eq!(pause_at(100, false), millis(192));
        assert!(pause_at(800, false) > millis(40) && pause_at(800, false) < millis(60));
        assert_eq!(pause_at(100_000, false), millis(4));
    }

    #[test]
    fn answered_datagrams_wake_at_once_except_at_high_rate() {
        assert_eq!(pause_at(500, true), None);
        assert_eq!(pause_at(100_000, true), Some(SHORTEST));
        let at = |millis| Moment::new(Duration::from_millis(millis));
        let mut pace = AdaptivePoll::new(at(0));
        assert_eq!(pace.on_drained(at(600), 60, 1), NextRead::WhenReady);
        assert_eq!(pace.on_drained(at(1_200), 120, 1), NextRead::WhenReady);
        assert_eq!(pace.on_drained(at(11_000), 1_100, 1), NextRead::At(at(11_136)));
    }

    #[test]
    fn polling_ends_when_the_rate_drops() {
        let at = |millis| Moment::new(Duration::from_millis(millis));
        let mut pace = AdaptivePoll::new(at(0));
        assert_eq!(pace.on_drained(at(600), 60, 0), NextRead::At(at(768)));
        assert_eq!(pace.on_drained(at(800), 60, 0), NextRead::At(at(960)));
        assert_eq!(pace.on_drained(at(1200), 61, 0), NextRead::WhenReady);
    }
}

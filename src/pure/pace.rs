//! How often a socket is looked at. Being woken is dear, and the kernel stamps datagrams as they come: only
//! where few come, or where they are answered, is it worth being woken for each.

use std::time::Duration;

use super::time::Moment;

/// How a socket is to be looked at next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Not all was read.
    AtOnce,
    /// At this moment, whatever comes.
    At(Moment),
    /// As soon as there is something to read.
    WhenReady,
}

/// Below so many datagrams a second, each wakes.
const CALM: f64 = 10.0;
/// Above so many, even those that are answered do not wake.
const BUSY: f64 = 1_000.0;
/// So many datagrams or fewer may come between two looks, so that the least receive buffer holds a multiple.
const AT_A_TIME: f64 = 40.0;
/// No look is sooner or later after the one before than this.
const SHORTEST: Duration = Duration::from_millis(4);
/// Others keep to multiples of this, too: whoever sleeps till then is woken with them. It is three of the slots
/// that tokio's timers lie in: one that ends with its slot wakes once, any other that is so far away twice.
pub const LONGEST: Duration = Duration::from_millis(192);
/// About a second: a multiple of that.
pub const SECOND: Duration = LONGEST.saturating_mul(5);
/// What comes is counted over this time at least.
const WINDOW: Duration = Duration::from_millis(500);
/// Who was answered lately will ask again.
const ASKS_AGAIN: Duration = Duration::from_secs(10);

/// What came lately, and what that means for the next look.
#[derive(Clone, Debug)]
pub struct Pace {
    since: Moment,
    packets: u64,
    answered: u64,
    /// When somebody was last found to have been answered.
    last_answer: Option<Moment>,
    /// Between looks; nothing: each datagram wakes.
    pause: Option<Duration>,
}

impl Pace {
    /// Nothing came yet.
    pub fn new(now: Moment) -> Self {
        Pace { since: now, packets: 0, answered: 0, last_answer: None, pause: None }
    }

    /// All was read. So many datagrams have come so far, and so many of them were answered.
    pub fn on_drained(&mut self, now: Moment, packets: u64, answered: u64) -> Look {
        let took = now.since(self.since);
        if took >= WINDOW {
            let rate = packets.saturating_sub(self.packets) as f64 / took.as_secs_f64();
            if answered != self.answered {
                self.last_answer = Some(now);
            }
            let answers = self.last_answer.is_some_and(|last| now.since(last) < ASKS_AGAIN);
            let may_wait = rate > BUSY || (rate > CALM && !answers);
            self.pause = may_wait.then(|| Duration::from_secs_f64(AT_A_TIME / rate).clamp(SHORTEST, LONGEST));
            (self.since, self.packets, self.answered) = (now, packets, answered);
        }
        match self.pause {
            Some(pause) => Look::At(now.next_multiple_of(pause)),
            None => Look::WhenReady,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pause after two seconds of this rate.
    fn pause_at(rate: u64, answers: bool) -> Option<Duration> {
        let at = |millis| Moment::new(Duration::from_millis(millis));
        let mut pace = Pace::new(at(0));
        for millis in (1..=2000).step_by(3) {
            let packets = rate * millis / 1000;
            pace.on_drained(at(millis), packets, if answers { packets } else { 0 });
        }
        pace.pause
    }

    #[test]
    fn the_more_comes_the_less_it_wakes() {
        let millis = |millis| Some(Duration::from_millis(millis));
        assert_eq!(pause_at(5, false), None);
        assert_eq!(pause_at(100, false), millis(192));
        assert!(pause_at(800, false) > millis(40) && pause_at(800, false) < millis(60));
        assert_eq!(pause_at(100_000, false), millis(4));
    }

    #[test]
    fn who_waits_for_an_answer_is_not_kept_waiting_but_in_a_flood() {
        assert_eq!(pause_at(500, true), None);
        assert_eq!(pause_at(100_000, true), Some(SHORTEST));
        let at = |millis| Moment::new(Duration::from_millis(millis));
        let mut pace = Pace::new(at(0));
        assert_eq!(pace.on_drained(at(600), 60, 1), Look::WhenReady);
        assert_eq!(pace.on_drained(at(1_200), 120, 1), Look::WhenReady);
        assert_eq!(pace.on_drained(at(11_000), 1_100, 1), Look::At(at(11_136)));
    }

    #[test]
    fn a_calm_socket_wakes_again_for_each_datagram() {
        let at = |millis| Moment::new(Duration::from_millis(millis));
        let mut pace = Pace::new(at(0));
        assert_eq!(pace.on_drained(at(600), 60, 0), Look::At(at(768)));
        assert_eq!(pace.on_drained(at(800), 60, 0), Look::At(at(960)));
        assert_eq!(pace.on_drained(at(1200), 61, 0), Look::WhenReady);
    }
}

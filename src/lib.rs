//! peerpair tests the network between the hosts of a fleet, one way at a time.
//!
//! ```text
//! supervisor (1x)                 signals, restart with back-off, ordered stop, the status snapshot
//! ├── watcher (1x)                reads and watches the config store; turns it into a plan; applies the difference
//! │   ├── listener (Nx address)   one socket per bound address; the expectation of every test that ends here
//! │   ├── pacer (Nx source)       one source address, its ports, and when each of its tests has its turn
//! │   └── sender (Nx test)        one test that starts here; its state, enrolled with the pacer of its source
//! ├── alarm (1x)                  every violation and every clear; what is true now; groups, silences
//! │   └── sink (Nx configured)    what this receiver was told; hold-down, rate, retries
//! ├── clock (1x)                  quality of the local clock once a second; steps; a time server's opinion
//! └── web (1x)                    status page, JSON, /metrics: reads the snapshot; carries silences to the alarm actor
//! ```
//!
//! Facts go up hop by hop, commands go down, nothing goes sideways. The actors are shells: they
//! take the time once, call [`pure`] code, and execute what it answers.

pub mod alarm;
pub mod cli;
pub mod clock;
pub mod config;
pub mod io;
pub mod listener;
pub mod messages;
pub mod pacer;
pub mod pure;
pub mod run;
pub mod sender;
pub mod sink;
pub mod supervisor;
pub mod tree;
pub mod watcher;
pub mod web;

/// It asks the kernel for large pages, which the C library's does not do dependably: with 100,000 tests, finding
/// where small pages lie took as long as what is done with them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

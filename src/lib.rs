//! peerpair tests the network between the hosts of a fleet, one direction at a time: the receiving host judges.
//!
//! ```text
//! supervisor (1x)                 signals, restart with back-off, ordered stop, the status snapshot
//! ├── watcher (1x)                reads and watches the config store; turns it into a plan; applies the difference
//! │   ├── listener (Nx address)   one socket per bound address; the receive session of every test that ends here
//! │   ├── pacer (Nx source)       one source address, its ports, and the send times of each of its tests
//! │   ├── sender (Nx test)        one test that starts here; its state, enrolled with the pacer of its source
//! │   └── prober (1x)             probes of targets that need no agent, judged here
//! ├── alarm (1x)                  every violation and every clear; the alarm list; correlation, silences
//! │   └── sink (Nx configured)    what was notified to this receiver; hold-down, rate, retries
//! ├── clock (1x)                  quality of the local clock once a second; steps; a time server's opinion
//! └── web (1x)                    status page, JSON, /metrics: reads the snapshot; carries silences to the alarm actor
//! ```
//!
//! A child sends facts to its parent, a parent sends commands to its children; only a sender enrols its state with the
//! pacer of its source. Actors decide nothing: they read the clock once, call [`pure`] code, and execute the actions
//! that it returns. `docs/architecture.md` describes the folders and the terms.

pub mod actor;
pub mod alarm;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod exit;
pub mod io;
pub mod listener;
pub mod messages;
pub mod pacer;
pub mod prober;
pub mod pure;
pub mod sender;
pub mod sink;
pub mod supervisor;
pub mod watcher;
pub mod web;

/// Global allocator. mimalloc asks the kernel for large pages, which the C library's allocator does not do reliably:
/// with 100,000 tests, address translation of small pages cost as much time as the work itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

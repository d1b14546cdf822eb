//! Durable state: what must survive a power cut, and the locks under which it changes.
//!
//! ```text
//! STATE_DIR/                 0700
//!   run-dir                  a link to the run directory that this belongs to
//!   dormouse.db              SQLite, write-ahead log; one transaction per acknowledged change
//!   containers/ID/           upper/ work/ log: what the container has written; etc: its hosts and resolv.conf
//!   layers/HEX/              one extracted directory per layer, shared by all images
//!   records/HEX              what it takes to make the layer's tar again
//!   volumes/ID/              data: what the volume holds
//!   secrets/ID               0600: what the secret is
//!   builds/ID/               what a build works with: gone with it
//!   build-caches/HEX/        what RUN --mount=type=cache keeps from one build to the next
//! RUN_DIR/                   0700, on a tmpfs: gone with the boot
//!   containers/ID/           the monitor's state file, sockets, specifications; of a pod: its namespaces and /dev/shm
//!   netns/ID                 the container's network namespace, while it is on a network
//!   builds/ID/               secrets of a build
//!   locks/                   one lock file per object that is being changed
//!   names/                   what aardvark-dns serves
//!   state-dir                a link to the state directory that the rest belongs to
//!   events.log               what has happened since boot
//! ```
//!
//! A row is the truth: a directory without a row is half-made or half-removed, and the next wake removes it
//! ([`crate::engine`] does, under the object's lock). So nothing is swept where the rows may be lost, or another's: a database
//! that is not there although it should be is an error, and so is a run directory with what another state directory tells of. What is only true while the machine is up is never in here.

mod builds;
mod database;
mod error;
mod find;
mod group_commit;
mod images;
mod locks;
mod networks;
mod paths;
mod pods;
mod schema;
mod secrets;
mod users;
mod volumes;

pub use builds::BuildStepRow;
pub use database::{ContainerRow, ImageRow, Store};
pub use error::StoreError;
pub use find::{Found, SHORT_ID_DIGITS};
pub use images::BlobRow;
pub use locks::{ObjectLock, lock_object, try_lock_object};
pub use networks::{LeaseRow, NetworkRow, PortRow, Reservations};
pub use paths::Paths;
pub use pods::PodRow;
pub use secrets::SecretRow;
pub use users::Uses;
pub use volumes::{User, VolumeRow};

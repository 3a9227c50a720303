//! Chaos: jobs on a cluster of real processes whose workers, coordinator, store, disks, clocks and network are broken at random
//! moments. After every fault the job must end with the loss curve of an undisturbed run, an audit that is proven, and a
//! checkpoint that verifies. `make chaos` runs it for as long as told.

mod clock;
mod faults;
mod life;
mod limits;
mod network;
mod report;
mod soak;

pub use faults::Fault;
pub use network::{Cut, Host, Network};
pub use report::{Losses, Report};
pub use soak::{Settings, run};

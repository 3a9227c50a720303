//! What every part of CapPa agrees on: identities, the job spec, sample order, manifests, storage
//! and telemetry. No libtorch and no server lives here.

pub mod causes;
pub mod checkpoint;
pub mod code;
pub mod coordinators;
pub mod evaluation;
pub mod ids;
pub mod manifest;
pub mod number;
pub mod order;
pub mod spec;
pub mod storage;
pub mod telemetry;
pub mod timing;

//! Names and descriptions, each once. Counters get their `_total` from the encoder.

type Name = (&'static str, &'static str);

pub(super) const RECOVERY: Name = (
    "cappa_recovery_duration_seconds",
    "How long it took to notice a lost member, and members to enter a group, by phase",
);
pub(super) const STALL: Name =
    ("cappa_checkpoint_stall_duration_seconds", "How long training stood still for a rank's part of a checkpoint");
pub(super) const WRITE: Name =
    ("cappa_checkpoint_write_duration_seconds", "How long a rank took to write its part of a checkpoint");
pub(super) const COMMIT: Name = (
    "cappa_checkpoint_commit_duration_seconds",
    "From the first rank's report that its parts are written to the commit of the checkpoint",
);
pub(super) const CALLS: Name = ("cappa_rpc_duration_seconds", "How long calls took until their answer began");

pub(super) const STEPS: Name = ("cappa_job_steps", "Optimizer updates");
pub(super) const EXAMPLES: Name = ("cappa_job_examples", "Examples trained on");
pub(super) const LOSS: Name = ("cappa_job_loss", "Loss of the newest step");
pub(super) const LEARNING_RATE: Name = ("cappa_job_learning_rate", "Learning rate of the newest step");
pub(super) const TIME: Name = ("cappa_job_time_seconds", "Where the job's wall time went; sums to it");
pub(super) const GOODPUT: Name = ("cappa_job_goodput_ratio", "Share of the job's wall time that was productive");
pub(super) const RECOVERIES: Name = ("cappa_job_recoveries", "Groups that broke because of a loss or failure");
pub(super) const STEPS_LOST: Name =
    ("cappa_steps_lost", "Optimizer updates that were reported and that a later group had to make again");
pub(super) const QUEUE_WAIT: Name = ("cappa_queue_wait_seconds", "How long the job has waited in the queue");
pub(super) const QUARANTINED: Name = ("cappa_samples_quarantined", "Samples left out, by reason");
pub(super) const CHECKPOINT_BYTES: Name = ("cappa_checkpoint_bytes", "Size of the newest committed checkpoint");
pub(super) const CHECKPOINT_AGE: Name =
    ("cappa_checkpoint_age_seconds", "Time since the newest checkpoint was committed");
pub(super) const JOBS: Name = ("cappa_jobs", "Jobs by state");
pub(super) const WORKERS: Name = ("cappa_workers", "Workers by state");
pub(super) const LEADER: Name =
    ("cappa_coordinator_leader", "1 where this coordinator leads, 0 where it follows another");
pub(super) const TERM: Name =
    ("cappa_coordinator_term", "Number of the lease of the coordinator that leads; grows with every take-over");
pub(super) const TAKE_OVER: Name = (
    "cappa_coordinator_takeover_seconds",
    "How long nobody was heard to lead before this coordinator did; absent where it was not waiting or was handed the lease",
);

//! Every kind of failure that people meet, in one closed list: what it is called, what to do about it, and what it is in
//! gRPC, in HTTP and as an exit code.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $grpc:expr, $exit:expr, $remedy:literal;)*) => {
        /// A kind of failure. Its text is stable: scripts and alerts may match on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Code {
            /// All codes.
            pub const ALL: &[Code] = &[$(Code::$name),*];

            /// The stable text, e.g. `INVALID_SPEC`.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text),* }
            }

            /// What to do about it: what `cappactl explain` prints.
            pub fn remedy(self) -> &'static str {
                match self { $(Code::$name => $remedy),* }
            }

            /// How it travels in gRPC.
            pub fn grpc(self) -> Grpc {
                match self { $(Code::$name => $grpc),* }
            }

            /// How a program that ends because of it exits.
            pub fn exit(self) -> Exit {
                match self { $(Code::$name => $exit),* }
            }
        }
    };
}

codes! {
    /// The job spec has mistakes.
    InvalidSpec = "INVALID_SPEC", Grpc::InvalidArgument, Exit::InvalidSpec,
        "correct the named places of the spec; `cappactl validate -f job.yaml` lists all of them without submitting, and \
         `cappactl schema` prints what a spec may contain";
    /// A request or a command line that makes no sense.
    Usage = "USAGE", Grpc::InvalidArgument, Exit::Usage,
        "correct the request; `cappactl COMMAND --help` says what a command takes";
    /// No such job, worker, checkpoint or step.
    NotFound = "NOT_FOUND", Grpc::NotFound, Exit::NotFound,
        "check the name; `cappactl list` shows the jobs and `cappactl checkpoints ls JOB` their checkpoints";
    /// Something of that name exists.
    AlreadyExists = "ALREADY_EXISTS", Grpc::AlreadyExists, Exit::Failed,
        "choose another name, or use what exists";
    /// The coordinator can't be reached or is still starting.
    Unavailable = "UNAVAILABLE", Grpc::Unavailable, Exit::Unavailable,
        "check that the coordinator runs and that --coordinator (or CAPPA_COORDINATOR) names it; running jobs go on without it, and the \
         same command can be repeated";
    /// This coordinator follows another.
    NotLeader = "NOT_LEADER", Grpc::Unavailable, Exit::Unavailable,
        "repeat the request at the coordinator that the message names; cappactl and the workers do so by themselves, and where none is \
         named, one takes over within seconds";
    /// The caller may not do that.
    NotPermitted = "NOT_PERMITTED", Grpc::PermissionDenied, Exit::NotPermitted,
        "ask an operator for the role that it needs, or use another namespace";
    /// The job is over; nothing can be changed any more.
    AlreadyEnded = "ALREADY_ENDED", Grpc::FailedPrecondition, Exit::Failed,
        "look at how it ended with `cappactl describe JOB`; submit it again to run it again";
    /// The request doesn't fit the job's state, e.g. a pause of a paused job.
    WrongState = "WRONG_STATE", Grpc::FailedPrecondition, Exit::Failed,
        "look at the job's state with `cappactl describe JOB`, and repeat the request when the state allows it";
    /// The namespace has used what it may.
    OverQuota = "OVER_QUOTA", Grpc::ResourceExhausted, Exit::OverQuota,
        "wait for a job of the namespace to end, cancel one, ask for fewer workers, or ask an operator for a larger quota";
    /// The message, spec or answer is larger than allowed.
    TooLarge = "TOO_LARGE", Grpc::ResourceExhausted, Exit::Usage,
        "send less at once; the message names the bound";
    /// A deadline passed first.
    TimedOut = "TIMED_OUT", Grpc::DeadlineExceeded, Exit::TimedOut,
        "repeat with a longer --timeout; a job that was being waited for goes on";
    /// The job was cancelled.
    Cancelled = "CANCELLED", Grpc::Cancelled, Exit::Cancelled,
        "nothing, if that was meant; its checkpoints stay, and `cappactl events JOB` says who cancelled it and why";
    /// The job gave its workers to a more important one.
    Preempted = "PREEMPTED", Grpc::Aborted, Exit::Preempted,
        "its state is in its newest checkpoint: `cappactl requeue JOB` goes on from there; with on_preemption: requeue it would wait \
         by itself, and with a higher priority it would not have to give way";
    /// The job failed for a reason without a code of its own.
    JobFailed = "JOB_FAILED", Grpc::FailedPrecondition, Exit::JobFailed,
        "`cappactl describe JOB` names the first rank that failed and its error, and `cappactl logs JOB --rank N` shows the \
         lines before it";
    /// The job had workers for as long as its spec allows.
    TimeLimitReached = "TIME_LIMIT_REACHED", Grpc::DeadlineExceeded, Exit::JobFailed,
        "its last state is in its newest checkpoint; submit it with a longer time_limit, or `cappactl requeue JOB` for the same \
         time again";
    /// The job did not start before its deadline.
    QueueDeadlineMissed = "QUEUE_DEADLINE_MISSED", Grpc::DeadlineExceeded, Exit::JobFailed,
        "`cappactl queue` shows what comes first; submit it with a later queue_deadline, a higher priority or fewer workers";
    /// A job that was to come first did not end as asked for.
    DependencyFailed = "DEPENDENCY_FAILED", Grpc::FailedPrecondition, Exit::JobFailed,
        "look at the named job; requeue it, and then this one, with `cappactl requeue JOB`";
    /// A manifest, shard or tokenizer can't be read.
    DataUnreadable = "DATA_UNREADABLE", Grpc::FailedPrecondition, Exit::JobFailed,
        "check that the named file exists and that the workers may read it; after shards were changed, write the manifest again \
         with `cappactl data index`";
    /// More samples are bad than the spec allows.
    TooManyBadSamples = "TOO_MANY_BAD_SAMPLES", Grpc::FailedPrecondition, Exit::JobFailed,
        "`cappactl logs JOB` names the quarantined samples: repair or remove their shards, or raise data.max_bad_fraction if so many are \
         expected";
    /// The store does not answer.
    StoreUnreachable = "STORE_UNREACHABLE", Grpc::Unavailable, Exit::Unavailable,
        "check the store's address and the network from the machine that is named; training goes on, and the next checkpoint is \
         tried again";
    /// The store refuses the credentials.
    StoreDenied = "STORE_DENIED", Grpc::PermissionDenied, Exit::NotPermitted,
        "check the credentials in the environment of the named process, and their rights on the bucket or folder";
    /// The URL is outside the allow-list.
    StoreNotAllowed = "STORE_NOT_ALLOWED", Grpc::PermissionDenied, Exit::NotPermitted,
        "use storage below one of the allowed prefixes, or ask an operator to add the prefix to the coordinator's allow-list";
    /// No space is left in the store.
    StoreFull = "STORE_FULL", Grpc::ResourceExhausted, Exit::JobFailed,
        "free space in the store, or lower checkpoint.keep; training goes on without the checkpoint, and the next one is tried";
    /// The store overwrites on conditional create.
    StoreNotAtomic = "STORE_NOT_ATOMIC", Grpc::FailedPrecondition, Exit::Usage,
        "use a store that honours conditional creates (If-None-Match: *): a folder, S3, GCS, Azure; two coordinators could \
         destroy each other's checkpoints on this one";
    /// A checkpoint's parts don't match its manifest.
    CheckpointDamaged = "CHECKPOINT_DAMAGED", Grpc::DataLoss, Exit::JobFailed,
        "the newest intact checkpoint is used instead; `cappactl checkpoints verify JOB` names the damaged parts, and none \
         intact means that the job has to start anew";
    /// A worker went silent or ended.
    WorkerLost = "WORKER_LOST", Grpc::Unavailable, Exit::JobFailed,
        "nothing, while enough workers are left: the survivors go on; else start workers, and look at the lost one's log and \
         at its machine's memory";
    /// A collective operation failed without a lost worker.
    CollectiveFailed = "COLLECTIVE_FAILED", Grpc::Unavailable, Exit::JobFailed,
        "the group forms again by itself; if it keeps failing, check that the workers reach each other's addresses (\
         `cappactl workers ls`) on every port and that all run the same version";
    /// A rank's parameters are not those of the others.
    ReplicaDiverged = "REPLICA_DIVERGED", Grpc::DataLoss, Exit::JobFailed,
        "nothing, if it happens once: the named rank goes on with the state of the others, or all go back to a checkpoint where \
         nobody can tell who is right; a worker that is named again and again is quarantined, because its memory or its GPU is failing: \
         `cappactl workers cordon` it until that is replaced";
    /// The device of one worker failed.
    DeviceFailed = "DEVICE_FAILED", Grpc::Unavailable, Exit::JobFailed,
        "nothing, while enough workers are left: the group goes on without the named worker, whose process ends and is to be started again \
         by its supervisor; one that fails again and again is quarantined: look at its machine (`nvidia-smi`, Xid in the kernel's log) and \
         `cappactl workers cordon` it; where every worker fails alike, the program or the job is at fault";
    /// The device or the machine has no memory left.
    OutOfMemory = "OUT_OF_MEMORY", Grpc::ResourceExhausted, Exit::JobFailed,
        "set a smaller micro_batch_size, gradient_checkpointing or precision bf16, use more workers, or a smaller model";
    /// The loss is no number any more.
    NumericDivergence = "NUMERIC_DIVERGENCE", Grpc::FailedPrecondition, Exit::JobFailed,
        "lower optimizer.learning_rate, lengthen schedule.warmup_steps or lower optimizer.clip_norm, and go on from an earlier \
         checkpoint";
    /// Worker and coordinator are of different versions.
    VersionMismatch = "VERSION_MISMATCH", Grpc::FailedPrecondition, Exit::Failed,
        "run the same major.minor version everywhere; update the coordinator first";
    /// Another process took over this one's role.
    Fenced = "FENCED", Grpc::Aborted, Exit::Failed,
        "nothing, if a successor was started on purpose: it has taken over; else stop one of the two";
    /// A configuration that contradicts itself.
    InvalidConfig = "INVALID_CONFIG", Grpc::FailedPrecondition, Exit::Usage,
        "correct the named settings; with only `detection` set, all time-outs follow from it";
    /// A mistake in the program.
    Internal = "INTERNAL", Grpc::Internal, Exit::Failed,
        "this is a fault of the program: report it with the log around the error";
}

impl Code {
    /// The HTTP status, after the table in `google.rpc.Code`.
    pub fn http(self) -> u16 {
        match self.grpc() {
            Grpc::InvalidArgument | Grpc::FailedPrecondition => 400,
            Grpc::PermissionDenied => 403,
            Grpc::NotFound => 404,
            Grpc::AlreadyExists | Grpc::Aborted => 409,
            Grpc::ResourceExhausted => 429,
            Grpc::Cancelled => 499,
            Grpc::Internal | Grpc::DataLoss => 500,
            Grpc::Unavailable => 503,
            Grpc::DeadlineExceeded => 504,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that is no code.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not an error code; `cappactl explain` without one lists them")]
pub struct UnknownCode(String);

impl FromStr for Code {
    type Err = UnknownCode;

    /// Takes any case, and `-` for `_`.
    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        let wanted = text.to_ascii_uppercase().replace('-', "_");
        let found = Self::ALL.iter().copied().find(|code| code.as_str() == wanted);
        found.ok_or_else(|| UnknownCode(text.to_owned()))
    }
}

/// The gRPC status codes in use, with their numbers on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
#[expect(missing_docs, reason = "named and numbered by the gRPC specification")]
pub enum Grpc {
    Cancelled = 1,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
}

impl Grpc {
    /// The number on the wire.
    pub fn number(self) -> i32 {
        self as i32
    }
}

/// How our programs exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All is well.
    Ok = 0,
    /// A failure without a number of its own.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The job spec is wrong.
    InvalidSpec = 3,
    /// The caller may not do that.
    NotPermitted = 4,
    /// The coordinator or a store does not answer.
    Unavailable = 5,
    /// The job failed.
    JobFailed = 100,
    /// The job is not finished.
    NotFinished = 101,
    /// There is no such thing.
    NotFound = 102,
    /// The job was cancelled.
    Cancelled = 103,
    /// The job was pre-empted.
    Preempted = 104,
    /// The quota is used up.
    OverQuota = 105,
    /// The time given has passed.
    TimedOut = 124,
    /// Interrupted from the keyboard; the job goes on.
    Interrupted = 130,
}

impl Exit {
    /// The number for the operating system.
    pub fn number(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_text_and_a_remedy() {
        let mut texts: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(!code.remedy().is_empty() && !code.remedy().contains("  "), "{code}");
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
        assert_eq!("invalid-spec".parse(), Ok(Code::InvalidSpec));
        assert!("nonsense".parse::<Code>().is_err());
    }

    #[test]
    fn the_published_numbers_stay() {
        let published = [
            (Code::InvalidSpec, 3, 400, 3),
            (Code::NotPermitted, 7, 403, 4),
            (Code::Unavailable, 14, 503, 5),
            (Code::JobFailed, 9, 400, 100),
            (Code::NotFound, 5, 404, 102),
            (Code::Cancelled, 1, 499, 103),
            (Code::Preempted, 10, 409, 104),
            (Code::OverQuota, 8, 429, 105),
            (Code::TimedOut, 4, 504, 124),
        ];
        for (code, grpc, http, exit) in published {
            assert_eq!((code.grpc().number(), code.http(), code.exit().number()), (grpc, http, exit), "{code}");
        }
    }
}

//! What a worker knows of its place and has to tell, as pure values: no libtorch, IO, threads or clock.
//!
//! A worker is two threads around this crate. The session's thread takes in what the coordinator says ([`obey`]) and
//! tells what is in the [`Book`], one [`Conversation`] a stream. The training thread takes orders ([`Turns`]), brings its group to one
//! state ([`agree`]) and asks the [`Bars`] whether its work is in vain. The simulator of the coordinator's core drives the same code.
//!
//! Unreachable is not dead: nothing here ends a turn because a stream has ended.

mod agree;
mod assignment;
mod backoff;
mod bars;
mod book;
mod conversation;
mod obey;
mod turns;
mod vote;

pub use agree::{Agreement, agree};
pub use assignment::{Assignment, BadForm, Order, Peer};
pub use backoff::Backoff;
pub use bars::{Barred, Bars};
pub use book::{Book, Cursor};
pub use conversation::{Conversation, Identity};
pub use obey::{Reaction, Unwanted, obey};
pub use turns::{Duty, Held, Turns};
pub use vote::{Digest, divergent};

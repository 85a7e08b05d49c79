mod crash;
mod key_index;
mod locks;
mod queues;
mod resets;
mod retention;
mod semantics;
mod snapshot;

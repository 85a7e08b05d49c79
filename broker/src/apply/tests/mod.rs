mod crash;
mod key_index;
mod queues;
mod semantics;

mod crash;
mod queues;
mod semantics;

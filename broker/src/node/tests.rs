//! Whole nodes in this process, over real sockets and a real disk: what clients see of the handlers.

mod calls;
mod delays;
mod deletion;
mod filters;
mod fixture;
mod follower;
mod listing;
mod locks;
mod measures;
mod membership;
mod offsets;
mod pulls;
mod queries;
mod registering;
mod resets;
mod sends;

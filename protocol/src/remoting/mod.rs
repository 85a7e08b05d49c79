//! The Remoting transport: frames, the command inside a frame, the codes, and the typed headers of each request kind.

pub mod command;
pub mod ext_fields;
pub mod frame;
mod header_binary;
mod header_json;
pub mod headers;
pub mod request_code;
pub mod response_code;

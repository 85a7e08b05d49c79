//! One Remoting command: a request or a response, independent of how its header was encoded.
//!
//! [`crate::remoting::frame`] makes it from bytes and bytes from it; handlers read its fields through typed headers. It never
//! interprets the body.

use std::fmt;

use bytes::Bytes;

use super::ext_fields::ExtFields;

/// The version that we report in every command: V5_4_0. Clients gate features by it (a consumer refuses SQL92 below 232),
/// and it fits the 16 bits of the binary header.
pub const VERSION: i32 = 493;

/// Flag bit 0: the command is a response.
pub const FLAG_RESPONSE: i32 = 1;

/// Flag bit 1: the sender wants no response.
pub const FLAG_ONEWAY: i32 = 2;

/// How a header is encoded. Stands in the frame, so each command says it for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SerializeType {
    /// A JSON object; what every client sends unless told otherwise.
    #[default]
    Json,
    /// RocketMQ's own binary layout.
    RocketMq,
}

impl SerializeType {
    /// The byte in the frame.
    pub fn byte(self) -> u8 {
        match self {
            SerializeType::Json => 0,
            SerializeType::RocketMq => 1,
        }
    }

    /// The type of a byte in the frame; `None` for an unknown one.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(SerializeType::Json),
            1 => Some(SerializeType::RocketMq),
            _ => None,
        }
    }
}

/// The implementation language of a peer, as it reports itself. Unknown names and numbers become [`Language::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
#[allow(missing_docs, reason = "the variants are the protocol's own names")]
pub enum Language {
    #[default]
    Java = 0,
    Cpp = 1,
    Dotnet = 2,
    Python = 3,
    Delphi = 4,
    Erlang = 5,
    Ruby = 6,
    Other = 7,
    Http = 8,
    Go = 9,
    Php = 10,
    Oms = 11,
    Rust = 12,
    NodeJs = 13,
}

impl Language {
    const ALL: [(Language, &'static str); 14] = [
        (Language::Java, "JAVA"),
        (Language::Cpp, "CPP"),
        (Language::Dotnet, "DOTNET"),
        (Language::Python, "PYTHON"),
        (Language::Delphi, "DELPHI"),
        (Language::Erlang, "ERLANG"),
        (Language::Ruby, "RUBY"),
        (Language::Other, "OTHER"),
        (Language::Http, "HTTP"),
        (Language::Go, "GO"),
        (Language::Php, "PHP"),
        (Language::Oms, "OMS"),
        (Language::Rust, "RUST"),
        (Language::NodeJs, "NODE_JS"),
    ];

    /// The protocol's name, as in the JSON header.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// The number in the binary header.
    pub fn byte(self) -> u8 {
        self as u8
    }

    /// The language of a name; [`Language::Other`] when unknown.
    pub fn from_name(name: &str) -> Self {
        Self::ALL.iter().find(|(_, known)| *known == name).map_or(Language::Other, |(language, _)| *language)
    }

    /// The language of a number; [`Language::Other`] when unknown.
    pub fn from_byte(byte: u8) -> Self {
        Self::ALL.get(usize::from(byte)).map_or(Language::Other, |(language, _)| *language)
    }
}

/// A request or a response.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct RemotingCommand {
    /// A request code or, in a response, a response code.
    pub code: i32,
    /// What the sender is written in.
    pub language: Language,
    /// The sender's version ordinal.
    pub version: i32,
    /// The sender's id of the request; a response repeats it.
    pub opaque: i32,
    /// Bits [`FLAG_RESPONSE`] and [`FLAG_ONEWAY`].
    pub flag: i32,
    /// A text for people: the reason of an error, or the status name of a pull.
    pub remark: Option<String>,
    /// The parameters.
    pub ext: ExtFields,
    /// The body; empty when there is none (the protocol cannot tell the two apart).
    pub body: Bytes,
    /// How the header came or is to be sent.
    pub serialize: SerializeType,
}

impl RemotingCommand {
    /// A request that wants an answer. `opaque` is the caller's: unique among the requests in flight on its connection.
    pub fn request(code: i32, opaque: i32) -> Self {
        Self { code, opaque, version: VERSION, ..Self::default() }
    }

    /// A request that wants no answer.
    pub fn oneway(code: i32, opaque: i32) -> Self {
        Self { flag: FLAG_ONEWAY, ..Self::request(code, opaque) }
    }

    /// The response to `request` with `code`: same opaque, same header encoding.
    pub fn response_to(request: &RemotingCommand, code: i32) -> Self {
        Self::response(code, request.opaque, request.serialize)
    }

    /// A response from its parts, for those who no longer hold the request.
    pub fn response(code: i32, opaque: i32, serialize: SerializeType) -> Self {
        Self { code, opaque, serialize, flag: FLAG_RESPONSE, version: VERSION, ..Self::default() }
    }

    /// Whether this is a response.
    pub fn is_response(&self) -> bool {
        self.flag & FLAG_RESPONSE != 0
    }

    /// Whether the sender wants no response. No response may be sent then, not even an error.
    pub fn is_oneway(&self) -> bool {
        self.flag & FLAG_ONEWAY != 0
    }

    /// Sets the remark.
    pub fn with_remark(mut self, remark: impl Into<String>) -> Self {
        self.remark = Some(remark.into());
        self
    }

    /// Sets one field. Panics as [`ExtFields::insert`] does.
    pub fn with_ext(mut self, name: &str, value: &str) -> Self {
        self.ext.insert(name, value);
        self
    }

    /// Sets the body.
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the header encoding.
    pub fn with_serialize(mut self, serialize: SerializeType) -> Self {
        self.serialize = serialize;
        self
    }
}

impl fmt::Debug for RemotingCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemotingCommand")
            .field("code", &self.code)
            .field("language", &self.language)
            .field("version", &self.version)
            .field("opaque", &self.opaque)
            .field("flag", &self.flag)
            .field("remark", &self.remark)
            .field("ext", &self.ext)
            .field("body_len", &self.body.len())
            .field("serialize", &self.serialize)
            .finish()
    }
}

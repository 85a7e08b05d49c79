//! Message bodies whose content can be judged: the id, a line feed, and filling that depends on the id. The Java and
//! Go peers make the same (`Payload.java`, `payload.go`).

/// The body of the message `id`, `size` bytes long (never shorter than the id and its line feed).
pub fn make(id: &str, size: usize) -> Vec<u8> {
    let head = format!("{id}\n").into_bytes();
    let length = size.max(head.len());
    head.iter().copied().cycle().take(length).collect()
}

/// The id that a body carries: everything before its first line feed.
pub fn id(body: &[u8]) -> String {
    let end = body.iter().position(|b| *b == b'\n').unwrap_or(body.len());
    String::from_utf8_lossy(&body[..end]).into_owned()
}

/// CRC-32 of a body as histories write it.
pub fn hash(body: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The peers and this module must agree on every byte, or each of their messages would look altered.
    #[test]
    fn bodies_are_those_of_the_peers() {
        let body = make("p-0", 200);
        assert_eq!((body.len(), id(&body).as_str(), hash(&body).as_str()), (200, "p-0", "9bc3b326"));
        assert_eq!(make("p-10", 2), b"p-10\n");
    }
}

package io.ledgermq.peer;

import java.nio.charset.StandardCharsets;
import java.util.zip.CRC32;

/** A message body: the id, a line feed, and filling that depends on the id. The same as tests/src/payload.rs makes. */
record Payload(String id, byte[] bytes) {
    static Payload of(String id, int size) {
        byte[] head = (id + "\n").getBytes(StandardCharsets.UTF_8);
        byte[] bytes = new byte[Math.max(size, head.length)];
        for (int i = 0; i < bytes.length; i++) {
            bytes[i] = head[i % head.length];
        }
        return new Payload(id, bytes);
    }

    static Payload read(byte[] bytes) {
        int end = 0;
        while (end < bytes.length && bytes[end] != '\n') {
            end++;
        }
        return new Payload(new String(bytes, 0, end, StandardCharsets.UTF_8), bytes);
    }

    String hash() {
        CRC32 crc = new CRC32();
        crc.update(bytes);
        return String.format("%08x", crc.getValue());
    }
}

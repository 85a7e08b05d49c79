package main

import (
	"bytes"
	"fmt"
	"hash/crc32"
)

// payload is a message body: the id, a line feed, and filling that depends on the id. The same as tests/src/payload.rs
// makes.
type payload struct {
	id    string
	bytes []byte
}

func makePayload(id string, size int) payload {
	head := []byte(id + "\n")
	if size < len(head) {
		size = len(head)
	}
	body := make([]byte, size)
	for i := range body {
		body[i] = head[i%len(head)]
	}
	return payload{id: id, bytes: body}
}

func readPayload(body []byte) payload {
	end := bytes.IndexByte(body, '\n')
	if end < 0 {
		end = len(body)
	}
	return payload{id: string(body[:end]), bytes: body}
}

func (p payload) hash() string { return fmt.Sprintf("%08x", crc32.ChecksumIEEE(p.bytes)) }

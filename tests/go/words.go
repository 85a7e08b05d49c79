package main

import (
	"strconv"

	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// userProperty is the user property of messages that carry words. Words are outside of ASCII on purpose, and one character
// is outside of UTF-16's basic plane. The same as tests/src/words.rs expects.
const userProperty = "größe 名前"

// numberProperty has a name and a value that SQL92 expressions can use.
const numberProperty = "n"

// speak gives message number n of this id a tag, keys and user properties.
func speak(message *primitive.Message, id string, n int) {
	tag := "偶数"
	if n%2 != 0 {
		tag = "奇数"
	}
	message.WithTag(tag)
	message.WithKeys([]string{"ключ-" + id, "каждый"})
	message.WithProperty(userProperty, id+" ☃ 😀")
	message.WithProperty(numberProperty, strconv.Itoa(n))
}

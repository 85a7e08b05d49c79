package io.ledgermq.peer;

import org.apache.rocketmq.common.message.Message;

/**
 * Tag, keys and a user property of messages that carry words. Words are outside of ASCII on purpose, and one character is
 * outside of UTF-16's basic plane. The same as tests/src/words.rs expects.
 */
final class Words {
    static final String USER_PROPERTY = "größe 名前";
    /** Has a name and a value that SQL92 expressions can use. */
    private static final String NUMBER_PROPERTY = "n";

    private Words() {}

    static void speak(Message message, String id, int n) {
        message.setTags(n % 2 == 0 ? "偶数" : "奇数");
        message.setKeys("ключ-" + id + " каждый");
        message.putUserProperty(USER_PROPERTY, id + " ☃ 😀");
        message.putUserProperty(NUMBER_PROPERTY, String.valueOf(n));
    }
}

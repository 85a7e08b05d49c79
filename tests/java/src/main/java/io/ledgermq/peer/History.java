package io.ledgermq.peer;

import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * The history of this process on standard output: one JSON object a line, one write a line, so that a kill costs the
 * last line at most. The fields are those of tests/src/history.rs; the clock is CLOCK_MONOTONIC.
 */
final class History {
    private final FileOutputStream out = new FileOutputStream(FileDescriptor.out);
    private final String process;

    History(String process) {
        this.process = process;
    }

    void invoke(long op, Payload payload, String topic, int attempts) {
        Map<String, Object> event = event("invoke");
        event.put("op", op);
        event.put("id", payload.id());
        event.put("topic", topic);
        event.put("hash", payload.hash());
        event.put("attempts", attempts);
        put(event);
    }

    void ok(long op, MessageQueue queue, long offset) {
        Map<String, Object> event = event("ok");
        event.put("op", op);
        event.put("queue", queueNumber(queue.getBrokerName(), queue.getQueueId()));
        event.put("offset", offset);
        put(event);
    }

    /** The send surely had no effect. */
    void fail(long op, String error) {
        outcome("fail", op, error);
    }

    /** The send may or may not have had its effect. */
    void unknown(long op, String error) {
        outcome("info", op, error);
    }

    /** A message was handed over; ordered when this consumer gets the messages of a queue one after the other. */
    void deliver(String group, MessageExt message, boolean ordered) {
        Payload payload = Payload.read(message.getBody());
        Map<String, Object> event = event("deliver");
        event.put("group", group);
        event.put("topic", message.getTopic());
        event.put("queue", queueNumber(message.getBrokerName(), message.getQueueId()));
        event.put("offset", message.getQueueOffset());
        event.put("id", payload.id());
        event.put("hash", payload.hash());
        event.put("tag", message.getTags());
        event.put("keys", message.getKeys());
        event.put("user", message.getUserProperty(Words.USER_PROPERTY));
        event.put("ordered", ordered);
        put(event);
    }

    /** A queue's number over all brokers: its id, plus 1,000 for each broker name before its own. */
    private static int queueNumber(String broker, int id) {
        return 1_000 * (broker.charAt(broker.length() - 1) - 'a') + id;
    }

    void mark(String what) {
        Map<String, Object> event = event("mark");
        event.put("what", what);
        put(event);
    }

    private void outcome(String type, long op, String error) {
        Map<String, Object> event = event(type);
        event.put("op", op);
        event.put("error", error.length() > 500 ? error.substring(0, 500) : error);
        put(event);
    }

    private Map<String, Object> event(String type) {
        Map<String, Object> event = new LinkedHashMap<>();
        event.put("type", type);
        event.put("t", System.nanoTime());
        event.put("process", process);
        return event;
    }

    private void put(Map<String, Object> event) {
        StringBuilder line = new StringBuilder(256).append('{');
        event.forEach((key, value) -> {
            if (value != null) {
                line.append(line.length() > 1 ? "," : "").append('"').append(key).append("\":");
                if (value instanceof Number || value instanceof Boolean) {
                    line.append(value);
                } else {
                    quote(line, value.toString());
                }
            }
        });
        byte[] bytes = line.append("}\n").toString().getBytes(StandardCharsets.UTF_8);
        try {
            synchronized (this) {
                out.write(bytes);
            }
        } catch (IOException e) {
            throw new UncheckedIOException("cannot write the history", e);
        }
    }

    private static void quote(StringBuilder line, String text) {
        line.append('"');
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (c == '"' || c == '\\') {
                line.append('\\').append(c);
            } else if (c < ' ') {
                line.append(String.format("\\u%04x", (int) c));
            } else {
                line.append(c);
            }
        }
        line.append('"');
    }
}

package io.ledgermq.peer;

import java.util.HashMap;
import java.util.Map;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.client.consumer.MessageSelector;

/** The command line: {@code --name value} pairs. */
final class Options {
    private final Map<String, String> values = new HashMap<>();

    Options(String[] args) {
        if (args.length % 2 != 0) {
            throw new IllegalArgumentException("options come as --name value");
        }
        for (int i = 0; i < args.length; i += 2) {
            if (!args[i].startsWith("--")) {
                throw new IllegalArgumentException("not an option: " + args[i]);
            }
            values.put(args[i].substring(2), args[i + 1]);
        }
    }

    String text(String name) {
        String value = values.get(name);
        if (value == null) {
            throw new IllegalArgumentException("--" + name + " is missing");
        }
        return value;
    }

    String text(String name, String fallback) {
        return values.getOrDefault(name, fallback);
    }

    /** By --sql, else by --tags, else everything. */
    MessageSelector selector() {
        String sql = values.get("sql");
        return sql == null ? MessageSelector.byTag(text("tags", "*")) : MessageSelector.bySql(sql);
    }

    int number(String name, int fallback) {
        return values.containsKey(name) ? Integer.parseInt(values.get(name)) : fallback;
    }

    /** What every client needs to reach a cluster; {@code pollMs} is for when --poll-ms is not given. */
    void connect(ClientConfig client, String instance, int pollMs) {
        client.setNamesrvAddr(text("namesrv"));
        client.setInstanceName(instance);
        client.setPollNameServerInterval(number("poll-ms", pollMs));
    }
}

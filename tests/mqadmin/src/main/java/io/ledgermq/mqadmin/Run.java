package io.ledgermq.mqadmin;

import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.tools.command.MQAdminStartup;

/**
 * Runs mqadmin's commands one after the other in one JVM. Reads a command per line, its arguments separated by tabs, and
 * writes what it printed, on both streams, behind a line with the number of bytes. Ends when standard input does.
 *
 * <p>Commands that begin with {@code @} are those of {@link Clients}: clients that mqadmin is to show.
 */
public final class Run {
    private Run() {}

    public static void main(String[] args) throws Exception {
        PrintStream answers = System.out;
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        Clients clients = new Clients();
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            ByteArrayOutputStream printed = new ByteArrayOutputStream();
            PrintStream to = new PrintStream(printed, true, StandardCharsets.UTF_8);
            System.setOut(to);
            System.setErr(to);
            String[] words = line.split("\t");
            try {
                if (words[0].startsWith("@")) {
                    clients.run(words);
                } else {
                    Commands.run(words);
                }
            } catch (Exception e) {
                e.printStackTrace();
            }
            to.flush();
            answers.print(printed.size() + "\n");
            printed.writeTo(answers);
            answers.flush();
        }
        System.exit(0);
    }

    private static final class Commands extends MQAdminStartup {
        /** Some commands keep their clients, and main0 enters all commands anew. */
        static void run(String[] words) {
            SUB_COMMANDS.clear();
            main0(words, null);
        }
    }
}

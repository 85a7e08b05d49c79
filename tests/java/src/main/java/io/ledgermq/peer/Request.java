package io.ledgermq.peer;

import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * Asks with DefaultMQProducer.request, one request after the other, until the leash is cut. An answered request is an
 * acknowledged call of the history; an answer to another request is a note that begins with "wrong".
 */
public final class Request {
    private static final int SIZE = 100;

    private Request() {}

    public static void main(String[] args) throws Exception {
        Options options = new Options(args);
        String process = options.text("process");
        String topic = options.text("topic");
        History history = new History(process);
        Leash leash = new Leash();
        DefaultMQProducer producer = new DefaultMQProducer(options.text("group"));
        options.connect(producer, process, 30_000);
        producer.start();
        history.mark("started");
        int timeoutMs = options.number("timeout-ms", 3_000);
        for (int n = 0; !leash.cut(); n++) {
            Payload payload = Payload.of(process + "-" + n, SIZE);
            history.invoke(n, payload, topic, 1);
            try {
                Message answer = producer.request(new Message(topic, payload.bytes()), timeoutMs);
                String words = new String(answer.getBody(), StandardCharsets.UTF_8);
                if (words.equals(Respond.answer(payload.id()))) {
                    // Answers have no place in a queue: each counts for itself.
                    history.ok(n, new MessageQueue(topic, "broker-a", 0), n);
                } else {
                    history.mark("wrong answer to " + payload.id() + ": " + words);
                }
            } catch (Exception e) {
                history.unknown(n, e.toString());
            }
            leash.await(options.number("pause-ms", 0));
        }
        producer.shutdown();
        history.mark("stopped");
        System.exit(0);
    }
}

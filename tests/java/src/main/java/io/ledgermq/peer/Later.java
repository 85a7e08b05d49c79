package io.ledgermq.peer;

import java.util.ArrayList;
import java.util.List;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Sends delayed messages, and consumes them: at once, or after it has given each back so many times. What happened is in its
 * notes, with times of the wall clock in ms:
 *
 * <pre>
 * sent ID BEFORE AFTER DELAY      an acknowledged send, DELAY ms ahead; retried under the same id until it is acknowledged
 * recalled ID BEFORE AFTER        taken back again
 * got ID TRIES NOW                handed to the listener, after so many failed tries
 * dead ID TRIES NOW               read from the dead letters
 * </pre>
 *
 * <p>The plan is a list of {@code kind=value*count}: level=1*5 sends five messages of delay level 1; sec, ms and at use the timer's
 * properties (at: a time so many ms ahead).
 */
public final class Later {
    private static final long PAUSE_AFTER_FAILURE_MS = 50;

    private final Options options;
    private final History history;
    private final Leash leash = new Leash();
    private final String process;
    private final String group;
    private final String topic;

    private Later(Options options) {
        this.options = options;
        process = options.text("process");
        history = new History(process);
        group = options.text("group");
        topic = options.text("topic");
    }

    public static void main(String[] args) throws Exception {
        new Later(new Options(args)).run();
    }

    private void run() throws Exception {
        List<DefaultMQPushConsumer> consumers = new ArrayList<>();
        int fails = options.number("fail", 0);
        consumers.add(consumer(group, topic, "got", fails));
        if (options.number("dead", 0) != 0) {
            consumers.add(consumer(group + "-dead", "%DLQ%" + group, "dead", 0));
        }
        DefaultMQProducer producer = new DefaultMQProducer(group + "-producer");
        options.connect(producer, process + "-producer", 1_000);
        // What the client repeats by itself would be stored twice, and nobody would know.
        producer.setRetryTimesWhenSendFailed(0);
        producer.start();
        history.mark("started");
        sendAll(producer);
        history.mark("done");
        leash.await();
        producer.shutdown();
        consumers.forEach(DefaultMQPushConsumer::shutdown);
        history.mark("stopped");
        System.exit(0);
    }

    private DefaultMQPushConsumer consumer(String group, String topic, String note, int fails) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        options.connect(consumer, process + "-" + note, 1_000);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setMaxReconsumeTimes(options.number("max-times", 16));
        consumer.subscribe(topic, "*");
        int level = options.number("retry-level", 0);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            boolean failed = false;
            for (MessageExt message : messages) {
                String id = Payload.read(message.getBody()).id();
                history.mark(note + " " + id + " " + message.getReconsumeTimes() + " " + System.currentTimeMillis());
                failed |= message.getReconsumeTimes() < fails;
            }
            context.setDelayLevelWhenNextConsume(level);
            return failed ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        return consumer;
    }

    private void sendAll(DefaultMQProducer producer) throws Exception {
        int number = 0;
        for (String part : options.text("plan").split(",")) {
            String[] words = part.split("[=*]");
            long value = Long.parseLong(words[1]);
            for (int n = 0; n < Integer.parseInt(words[2]) && !leash.cut(); n++) {
                send(producer, process + "-" + number++, words[0], value);
            }
        }
    }

    private void send(DefaultMQProducer producer, String id, String kind, long value) throws Exception {
        while (!leash.cut()) {
            Message message = new Message(topic, Payload.of(id, 200).bytes());
            message.setKeys(id);
            long before = System.currentTimeMillis();
            long delay = delay(message, kind, value, before);
            try {
                SendResult result = producer.send(message);
                long after = System.currentTimeMillis();
                if (result.getSendStatus() == SendStatus.SEND_OK) {
                    history.mark("sent " + id + " " + before + " " + after + " " + delay);
                    if (options.number("recall", 0) != 0) {
                        recall(producer, id, result);
                    }
                    return;
                }
            } catch (InterruptedException e) {
                throw e;
            } catch (Exception e) {
                history.mark("failed " + id + " " + e);
            }
            leash.await(PAUSE_AFTER_FAILURE_MS);
        }
    }

    /** Asks for the delay, and says how long it is in ms. */
    private static long delay(Message message, String kind, long value, long now) {
        switch (kind) {
            case "level" -> {
                message.setDelayTimeLevel((int) value);
                long[] seconds = {0, 1, 5, 10, 30, 60};
                return seconds[(int) value] * 1_000;
            }
            case "sec" -> {
                // By its name: 4.x has no setter.
                MessageAccessor.putProperty(message, "TIMER_DELAY_SEC", Long.toString(value));
                return value * 1_000;
            }
            case "ms" -> {
                MessageAccessor.putProperty(message, "TIMER_DELAY_MS", Long.toString(value));
                return value;
            }
            case "at" -> {
                MessageAccessor.putProperty(message, "TIMER_DELIVER_MS", Long.toString(now + value));
                return value;
            }
            default -> throw new IllegalArgumentException("no such delay: " + kind);
        }
    }

    /** Only 5.x has it. */
    private void recall(DefaultMQProducer producer, String id, SendResult result) throws Exception {
        Object handle = SendResult.class.getMethod("getRecallHandle").invoke(result);
        long before = System.currentTimeMillis();
        DefaultMQProducer.class.getMethod("recallMessage", String.class, String.class).invoke(producer, topic, handle);
        history.mark("recalled " + id + " " + before + " " + System.currentTimeMillis());
    }
}

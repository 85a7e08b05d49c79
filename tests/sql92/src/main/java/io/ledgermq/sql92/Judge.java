package io.ledgermq.sql92;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import java.util.Map;
import org.apache.rocketmq.common.message.MessageDecoder;
import org.apache.rocketmq.filter.FilterFactory;
import org.apache.rocketmq.filter.expression.EvaluationContext;
import org.apache.rocketmq.filter.expression.Expression;

/**
 * Reads cases from standard input, one a line: an expression and a property string, each as hexadecimal UTF-8, with a blank between
 * them. Prints what RocketMQ's engine says to each: refused, true, false, null, or threw.
 */
public final class Judge {
    private Judge() {}

    public static void main(String[] args) throws Exception {
        BufferedReader cases = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        PrintStream verdicts = new PrintStream(System.out, false, StandardCharsets.US_ASCII);
        for (String line = cases.readLine(); line != null; line = cases.readLine()) {
            int blank = line.indexOf(' ');
            verdicts.println(judge(text(line.substring(0, blank)), text(line.substring(blank + 1))));
        }
        verdicts.flush();
        System.exit(0);
    }

    private static String text(String hex) {
        return new String(HexFormat.of().parseHex(hex), StandardCharsets.UTF_8);
    }

    private static String judge(String expression, String properties) {
        Expression compiled;
        try {
            compiled = FilterFactory.INSTANCE.get("SQL92").compile(expression);
        } catch (Throwable e) {
            return "refused";
        }
        Map<String, String> map = MessageDecoder.string2messageProperties(properties);
        try {
            return String.valueOf(compiled.evaluate(new EvaluationContext() {
                @Override
                public Object get(String name) {
                    return map.get(name);
                }

                @Override
                public Map<String, Object> keyValues() {
                    throw new UnsupportedOperationException();
                }
            }));
        } catch (Throwable e) {
            return "threw";
        }
    }
}

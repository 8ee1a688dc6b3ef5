// A service on what the JDK brings: listens on $PORT, and at SIGTERM finishes the requests it has
// before it ends.
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Executors;

public final class Main {
    private static final String RELEASE = variable("SELVEDGE_RELEASE", "local");
    private static final String SITE = variable("SELVEDGE_SITE", "local");

    /** What a request is answered with. */
    private record Answer(int status, String json) {}

    private interface Page {
        Answer answer(Map<String, String> query);
    }

    public static void main(String[] arguments) throws IOException {
        // The proxy keeps connections for reuse: they must outlive its own idle timeout.
        System.setProperty("sun.net.httpserver.idleInterval", "120");
        int port = Integer.parseInt(variable("PORT", "3000"));
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
        server.createContext("/", exchange -> handle(exchange, "/", Main::home));
        server.createContext("/healthz", exchange -> handle(exchange, "/healthz", query -> ok("\"ok\": true")));
        server.createContext("/yarn", exchange -> handle(exchange, "/yarn", Main::yarn));
        server.setExecutor(Executors.newFixedThreadPool(8));
        Runtime.getRuntime().addShutdownHook(new Thread(() -> server.stop(1)));
        server.start();
        System.out.println("release " + RELEASE + " listens on port " + server.getAddress().getPort());
    }

    private static Answer home(Map<String, String> query) {
        return ok("""
            "service": "java-service", "java": "%s", "try": ["/yarn?metres=1200&tex=25"]"""
            .formatted(Runtime.version()));
    }

    /** How heavy a length of yarn is: one tex is one gram for each thousand metres. */
    private static Answer yarn(Map<String, String> query) {
        double metres = number(query.get("metres"));
        double tex = number(query.get("tex"));
        if (!(metres > 0 && metres <= 1e9 && tex > 0 && tex <= 1e6)) {
            return new Answer(422, json("\"error\": \"give metres and tex, both more than 0\""));
        }
        return ok(String.format(Locale.ROOT, "\"grams\": %.3f", metres * tex / 1000));
    }

    private static void handle(HttpExchange exchange, String path, Page page) throws IOException {
        try (exchange) {
            Answer answer;
            if (!exchange.getRequestMethod().equals("GET")) {
                answer = new Answer(405, json("\"error\": \"GET only\""));
            } else if (!exchange.getRequestURI().getPath().equals(path)) {
                answer = new Answer(404, json("\"error\": \"nothing here\""));
            } else {
                answer = page.answer(parameters(exchange.getRequestURI().getRawQuery()));
            }
            byte[] body = answer.json().getBytes(StandardCharsets.UTF_8);
            exchange.getResponseHeaders().set("content-type", "application/json");
            exchange.sendResponseHeaders(answer.status(), body.length);
            exchange.getResponseBody().write(body);
        }
    }

    private static Answer ok(String fields) {
        return new Answer(200, json(fields));
    }

    private static String json(String fields) {
        return "{\"release\": \"" + RELEASE + "\", \"site\": \"" + SITE + "\", " + fields + "}\n";
    }

    private static Map<String, String> parameters(String query) {
        Map<String, String> parameters = new HashMap<>();
        if (query != null) {
            for (String pair : query.split("&")) {
                String[] parts = pair.split("=", 2);
                if (parts.length == 2) {
                    parameters.put(parts[0], URLDecoder.decode(parts[1], StandardCharsets.UTF_8));
                }
            }
        }
        return parameters;
    }

    private static double number(String text) {
        try {
            return text == null ? Double.NaN : Double.parseDouble(text);
        } catch (NumberFormatException error) {
            return Double.NaN;
        }
    }

    private static String variable(String name, String otherwise) {
        String value = System.getenv(name);
        return value == null ? otherwise : value;
    }
}

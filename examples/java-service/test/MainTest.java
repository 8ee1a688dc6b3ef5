// Tests what the build made, as it runs at a site: started with $PORT, ended with SIGTERM.
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.concurrent.TimeUnit;

final class MainTest {
    private static final HttpClient CLIENT = HttpClient.newHttpClient();

    public static void main(String[] arguments) throws Exception {
        ProcessBuilder builder = new ProcessBuilder("java", "-cp", "classes", "Main");
        builder.environment().put("PORT", "0");
        builder.environment().put("SELVEDGE_RELEASE", "abc123");
        Process server = builder.redirectError(ProcessBuilder.Redirect.INHERIT).start();
        try {
            String line = new BufferedReader(new InputStreamReader(server.getInputStream())).readLine();
            String base = "http://127.0.0.1:" + line.replaceFirst(".*port ", "");
            expect(base + "/", 200, "\"release\": \"abc123\"");
            expect(base + "/healthz", 200, "\"ok\": true");
            expect(base + "/yarn?metres=1200&tex=25", 200, "\"grams\": 30.000");
            expect(base + "/yarn?metres=-1&tex=25", 422, "error");
            expect(base + "/yarn?metres=NaN&tex=x", 422, "error");
            expect(base + "/nowhere", 404, "nothing here");
        } finally {
            server.destroy();
        }
        if (!server.waitFor(30, TimeUnit.SECONDS)) {
            server.destroyForcibly();
            throw new AssertionError("it did not end at SIGTERM");
        }
        System.out.println("service tests passed");
    }

    private static void expect(String url, int status, String part) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(url)).build();
        HttpResponse<String> response = CLIENT.send(request, HttpResponse.BodyHandlers.ofString());
        if (response.statusCode() != status || !response.body().contains(part)) {
            throw new AssertionError(url + ": " + response.statusCode() + " " + response.body());
        }
    }
}

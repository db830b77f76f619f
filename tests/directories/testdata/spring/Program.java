// A controller around what the pages print for Spring, with what the pages take from Spring
// and Jackson, by the same names, on the JDK's own web server. The test puts the pages' text
// in the place of the lines "BLOCK".

import static java.nio.charset.StandardCharsets.UTF_8;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.lang.annotation.Retention;
import java.lang.annotation.RetentionPolicy;
import java.lang.reflect.Method;
import java.lang.reflect.Parameter;
import java.net.InetSocketAddress;
import java.security.MessageDigest;
import java.time.Instant;
import java.util.*;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.regex.*;
import java.util.stream.Collectors;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public class Program {
  @Retention(RetentionPolicy.RUNTIME) @interface GetMapping { String value(); }
  @Retention(RetentionPolicy.RUNTIME) @interface PostMapping { String value(); }
  @Retention(RetentionPolicy.RUNTIME) @interface RequestBody {}
  @Retention(RetentionPolicy.RUNTIME) @interface RequestHeader { String value(); }

  record ResponseEntity<T>(int status, T body) {
    record Builder(int status) { <T> ResponseEntity<T> build() { return new ResponseEntity<>(status, null); } }
    static Builder status(int status) { return new Builder(status); }
    static Builder badRequest() { return new Builder(400); }
    static Builder notFound() { return new Builder(404); }
    static <T> ResponseEntity<T> ok(T body) { return new ResponseEntity<>(200, body); }
  }

  // The events are flat, so a member's text is all that a node has.
  record JsonNode(String text) {
    JsonNode path(String name) {
      Matcher m = Pattern.compile("\"" + name + "\":\"([^\"]*)\"").matcher(text);
      return new JsonNode(m.find() ? m.group(1) : "");
    }
    String asText() { return text; }
  }
  static class ObjectMapper { JsonNode readTree(byte[] body) { return new JsonNode(new String(body, UTF_8)); } }

  record Order(String userId, String phone) {}
  record Member(int id, String phone, String role, boolean banned) {}
  static class Members {
    final List<Member> known = new CopyOnWriteArrayList<>(List.of(
        new Member(7, "+8613800138000", "admin", false), new Member(8, "+8613600136000", "member", true)));
    synchronized Member handle(JsonNode e) {
      String phone = e.path("phone").asText(), id = e.path("userId").asText();
      Member found = known.stream().filter(m -> phone.isEmpty() ? id.equals("" + m.id()) : phone.equals(m.phone())).findFirst().orElse(null);
      if (e.path("type").asText().equals("user.erase")) {
        known.remove(found);
        return null;
      }
      if (found == null && !phone.isEmpty()) known.add(found = new Member(known.get(known.size() - 1).id() + 1, phone, "member", false));
      return found;
    }
  }
  final Members members = new Members();

  // BLOCK users

  // BLOCK headers
    return List.of(new Order(userId, phone));
  }

  // answer calls a handler as Spring does: 400 where a header is missing or no number.
  void answer(HttpExchange x, Method handler) throws IOException {
    Object answer;
    try {
      List<Object> values = new ArrayList<>();
      for (Parameter p : handler.getParameters()) {
        if (p.isAnnotationPresent(RequestBody.class)) values.add(x.getRequestBody().readAllBytes());
        else {
          String value = Objects.requireNonNull(x.getRequestHeaders().getFirst(p.getAnnotation(RequestHeader.class).value()));
          values.add(p.getType() == long.class ? (Object) Long.parseLong(value) : value);
        }
      }
      answer = handler.invoke(this, values.toArray());
    } catch (NullPointerException | NumberFormatException e) {
      answer = ResponseEntity.badRequest().build();
    } catch (ReflectiveOperationException e) {
      e.printStackTrace();
      answer = ResponseEntity.status(500).build();
    }
    ResponseEntity<?> entity = answer instanceof ResponseEntity<?> r ? r : ResponseEntity.ok(answer);
    byte[] body = (entity.body() == null ? "" : json(entity.body())).getBytes(UTF_8);
    x.getResponseHeaders().set("Content-Type", "application/json");
    x.sendResponseHeaders(entity.status(), body.length == 0 ? -1 : body.length);
    x.getResponseBody().write(body);
    x.close();
  }

  static String json(Object o) {
    if (o instanceof Map<?, ?> m) return m.entrySet().stream().map(e -> json(e.getKey()) + ":" + json(e.getValue())).collect(Collectors.joining(",", "{", "}"));
    if (o instanceof List<?> l) return l.stream().map(Program::json).collect(Collectors.joining(",", "[", "]"));
    if (o instanceof Order r) return "{\"userId\":" + json(r.userId()) + ",\"phone\":" + json(r.phone()) + "}";
    return o instanceof Boolean ? o.toString() : "\"" + o + "\"";
  }

  public static void main(String[] args) throws IOException {
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(System.getenv("PORT"))), 0);
    Program program = new Program();
    for (Method m : Program.class.getDeclaredMethods()) {
      String path = m.isAnnotationPresent(PostMapping.class) ? m.getAnnotation(PostMapping.class).value()
          : m.isAnnotationPresent(GetMapping.class) ? m.getAnnotation(GetMapping.class).value() : null;
      if (path != null) server.createContext(path, x -> program.answer(x, m));
    }
    server.start();
  }
}

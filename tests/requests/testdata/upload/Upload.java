import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.URL;
import java.security.cert.X509Certificate;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509TrustManager;

/** Java's HttpURLConnection: java Upload.java url sized|chunked|buffered bytes... */
public class Upload {
    static class TrustAll implements X509TrustManager {
        public void checkClientTrusted(X509Certificate[] chain, String type) {}
        public void checkServerTrusted(X509Certificate[] chain, String type) {}
        public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
    }

    public static void main(String[] args) throws Exception {
        SSLContext tls = SSLContext.getInstance("TLS");
        tls.init(null, new TrustManager[] {new TrustAll()}, null);
        HttpsURLConnection.setDefaultSSLSocketFactory(tls.getSocketFactory());
        HttpsURLConnection.setDefaultHostnameVerifier((host, session) -> true);
        byte[] piece = new byte[65536];
        for (int i = 2; i < args.length; i++) {
            int size = Integer.parseInt(args[i]);
            try {
                HttpURLConnection c = (HttpURLConnection) new URL(args[0]).openConnection();
                c.setRequestMethod("POST");
                c.setDoOutput(true);
                c.setRequestProperty("Authorization", "Bearer bad");
                if (args[1].equals("sized")) {
                    c.setFixedLengthStreamingMode(size);
                } else if (args[1].equals("chunked")) {
                    c.setChunkedStreamingMode(65536);
                }
                try (OutputStream out = c.getOutputStream()) {
                    for (int at = 0; at < size; at += piece.length) {
                        out.write(piece, 0, Math.min(piece.length, size - at));
                    }
                }
                int status = c.getResponseCode();
                InputStream body = c.getErrorStream();
                if (body != null) {
                    body.readAllBytes();
                }
                System.out.println(size + " " + status);
            } catch (Exception e) {
                System.out.println(size + " error " + e);
            }
        }
    }
}

import java.io.FileInputStream;
import java.util.zip.GZIPInputStream;

/** Writes what Java reads out of a gzip file to standard output. */
class Inflate {
    public static void main(String[] arguments) throws Exception {
        try (var content = new GZIPInputStream(new FileInputStream(arguments[0]))) {
            content.transferTo(System.out);
        }
        System.out.flush();
    }
}

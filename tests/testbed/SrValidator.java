import com.pixelmed.validate.DicomSRValidator;
import java.io.BufferedReader;
import java.io.InputStreamReader;

/**
 * DicomSRValidator for many documents: its own main takes one, and spends most of its time on reading its style sheets.
 * Each line of standard input is a path; its answer ends with a line that says only "END".
 */
class SrValidator {
  public static void main(String[] arguments) throws Exception {
    DicomSRValidator validator = new DicomSRValidator();
    BufferedReader paths = new BufferedReader(new InputStreamReader(System.in));
    for (String path; (path = paths.readLine()) != null; ) {
      try {
        System.out.println(validator.validate(path));
      } catch (Exception reason) {
        System.out.println(reason);
      }
      System.out.println("END");
    }
  }
}

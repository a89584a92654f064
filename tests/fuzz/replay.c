/* Runs a fuzz target over the files of its corpus, for builds without libFuzzer: `replay FOLDER`. */
#include "base/file.h"

#include <dirent.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv) {
    DIR *folder = argc == 2 ? opendir(argv[1]) : NULL;
    if (!folder) {
        fprintf(stderr, "usage: replay FOLDER\n");
        return 2;
    }
    size_t n = 0;
    for (const struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        char path[4096];
        lp_error error = {0};
        lp_text text = {0};
        snprintf(path, sizeof path, "%.3000s/%.300s", argv[1], entry->d_name);
        if (lp_path_look(path) != LP_PATH_FILE) continue;
        if (lp_file_read(path, (size_t)1 << 26, &text, &error) != LP_OK) {
            fprintf(stderr, "replay: %s\n", error.text);
            return 1;
        }
        LLVMFuzzerTestOneInput((const uint8_t *)lp_text_get(&text), text.length);
        lp_text_release(&text);
        n++;
    }
    closedir(folder);
    printf("%zu inputs\n", n);
    return n > 0 ? 0 : 1;
}

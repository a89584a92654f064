/* Completion scripts. Each is a fixed frame around lists that come out of the table of commands. */
#include "cli/help.h"

const char *const lp_shell_names[] = {"bash", "zsh", "fish", NULL};

/* The second word of a command's name, or NULL. */
static const char *verb_of(const lp_command *command) {
    const char *blank = strchr(command->name, ' ');
    return blank ? blank + 1 : NULL;
}

static int first_word(const lp_command *command) {
    return (int)strcspn(command->name, " ");
}

static bool is_first_of_group(size_t i) {
    int n = first_word(lp_commands[i]);
    return i == 0 || first_word(lp_commands[i - 1]) != n ||
           strncmp(lp_commands[i]->name, lp_commands[i - 1]->name, (size_t)n) != 0;
}

static lp_status add_names(const lp_command *command, lp_text *out, lp_error *err) {
    lp_status status = lp_text_format(out, err, "--help --version");
    for (size_t i = 0; i < command->n_options && status == LP_OK; i++)
        status = lp_text_format(out, err, " %s", command->options[i].name);
    return status;
}

static lp_status add_choices(const lp_option *option, lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    for (int i = 0; option->choices[i] && status == LP_OK; i++)
        status = lp_text_format(out, err, "%s%s", i > 0 ? " " : "", option->choices[i]);
    return status;
}

/* The texts of help stand in single quotes, in which the shells know no escape but their own. */
static lp_status add_quoted(const char *text, const char *quote, const char *more, lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    for (const char *p = text; *p && status == LP_OK; p++) {
        if (*p == '\'')
            status = lp_text_format(out, err, "%s", quote);
        else if (strchr(more, *p))
            status = lp_text_format(out, err, "\\%c", *p);
        else
            status = lp_text_add(out, p, 1, err);
    }
    return status;
}

/* ---- bash ---- */

static lp_status add_bash(lp_text *out, lp_error *err) {
    LP_CHECK(lp_text_format(
        out, err,
        "# bash completion of latentpatch: source it, or put it where bash-completion looks.\n"
        "_latentpatch() {\n"
        "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}\n"
        "    local options='' kind=files\n"
        "    COMPREPLY=()\n"
        "    if ((COMP_CWORD == 1)); then\n"
        "        mapfile -t COMPREPLY < <(compgen -W '--help --version"));
    for (size_t i = 0; i < lp_n_commands; i++)
        if (is_first_of_group(i))
            LP_CHECK(lp_text_format(out, err, " %.*s", first_word(lp_commands[i]), lp_commands[i]->name));
    LP_CHECK(lp_text_format(out, err, "' -- \"$word\")\n        return\n    fi\n    case $command in\n"));
    for (size_t i = 0; i < lp_n_commands; i++) {
        if (!verb_of(lp_commands[i]) || !is_first_of_group(i)) continue;
        int n = first_word(lp_commands[i]);
        LP_CHECK(lp_text_format(out, err,
                                "    %.*s)\n        if ((COMP_CWORD == 2)); then\n"
                                "            mapfile -t COMPREPLY < <(compgen -W '--help",
                                n, lp_commands[i]->name));
        for (size_t k = i; k < lp_n_commands && (k == i || !is_first_of_group(k)); k++)
            LP_CHECK(lp_text_format(out, err, " %s", verb_of(lp_commands[k])));
        LP_CHECK(lp_text_format(out, err,
                                "' -- \"$word\")\n            return\n        fi\n"
                                "        command+=\" ${COMP_WORDS[2]}\"\n        ;;\n"));
    }
    LP_CHECK(lp_text_format(out, err, "    esac\n    case \"$command $before\" in\n"));
    for (size_t i = 0; i < lp_n_commands; i++)
        for (size_t k = 0; k < lp_commands[i]->n_options; k++) {
            const lp_option *option = &lp_commands[i]->options[k];
            if (option->kind == LP_OPTION_FLAG) continue;
            LP_CHECK(lp_text_format(out, err, "    '%s %s') kind=", lp_commands[i]->name, option->name));
            if (option->kind == LP_OPTION_CHOICE) {
                LP_CHECK(lp_text_format(out, err, "words options='"));
                LP_CHECK(add_choices(option, out, err));
                LP_CHECK(lp_text_format(out, err, "' ;;\n"));
            } else {
                bool file = option->kind == LP_OPTION_FILE || option->kind == LP_OPTION_PATH;
                LP_CHECK(lp_text_format(out, err, "%s ;;\n",
                                        file                               ? "files"
                                        : option->kind == LP_OPTION_FOLDER ? "folders"
                                                                           : "none"));
            }
        }
    LP_CHECK(lp_text_format(out, err, "    *)\n        case $command in\n"));
    for (size_t i = 0; i < lp_n_commands; i++) {
        LP_CHECK(lp_text_format(out, err, "        '%s') options='", lp_commands[i]->name));
        LP_CHECK(add_names(lp_commands[i], out, err));
        if (lp_commands[i]->operand_kind == LP_OPERANDS_SHELLS) LP_CHECK(lp_text_format(out, err, " bash zsh fish"));
        LP_CHECK(lp_text_format(out, err, "'%s ;;\n",
                                lp_commands[i]->operand_kind == LP_OPERANDS_SHELLS ? " kind=words" : ""));
    }
    return lp_text_format(
        out, err,
        "        esac\n"
        "        [[ $word == -* ]] && kind=words\n"
        "        ;;\n"
        "    esac\n"
        "    case $kind in\n"
        "    words) mapfile -t COMPREPLY < <(compgen -W \"$options\" -- \"$word\") ;;\n"
        "    files) compopt -o filenames 2>/dev/null || true; mapfile -t COMPREPLY < <(compgen -f -- \"$word\") ;;\n"
        "    folders) compopt -o filenames 2>/dev/null || true; mapfile -t COMPREPLY < <(compgen -d -- \"$word\") ;;\n"
        "    esac\n"
        "}\n"
        "complete -F _latentpatch latentpatch\n");
}

/* ---- zsh ---- */

static lp_status add_zsh_arguments(const lp_command *command, lp_text *out, lp_error *err) {
    LP_CHECK(lp_text_format(out, err, "_arguments '--help[describe the command]' '--version[print the version]'"));
    for (size_t i = 0; i < command->n_options; i++) {
        const lp_option *option = &command->options[i];
        bool repeated = option->kind == LP_OPTION_TEXTS || option->kind == LP_OPTION_INTEGERS;
        LP_CHECK(lp_text_format(out, err, " \\\n            '%s%s[", repeated ? "*" : "", option->name));
        LP_CHECK(add_quoted(option->help, "'\\''", "[]:", out, err));
        LP_CHECK(lp_text_add(out, "]", 1, err));
        if (option->kind != LP_OPTION_FLAG) LP_CHECK(lp_text_format(out, err, ":%s:", option->value));
        if (option->kind == LP_OPTION_FILE || option->kind == LP_OPTION_PATH)
            LP_CHECK(lp_text_format(out, err, "_files"));
        if (option->kind == LP_OPTION_FOLDER) LP_CHECK(lp_text_format(out, err, "_files -/"));
        if (option->kind == LP_OPTION_CHOICE) {
            LP_CHECK(lp_text_add(out, "(", 1, err));
            LP_CHECK(add_choices(option, out, err));
            LP_CHECK(lp_text_add(out, ")", 1, err));
        }
        LP_CHECK(lp_text_add(out, "'", 1, err));
    }
    static const char *const operands[] = {"_files", "", "(bash zsh fish)"};
    return lp_text_format(out, err, " \\\n            '*:operand:%s'\n", operands[command->operand_kind]);
}

static lp_status add_zsh(lp_text *out, lp_error *err) {
    LP_CHECK(lp_text_format(
        out, err,
        "#compdef latentpatch\n"
        "# zsh completion of latentpatch: put it as _latentpatch into a folder of $fpath, or source it.\n"
        "_latentpatch() {\n"
        "    local command=$words[2]\n"
        "    if ((CURRENT == 2)); then\n"
        "        local -a commands=(\n"));
    for (size_t i = 0; i < lp_n_commands; i++) {
        if (!is_first_of_group(i)) continue;
        int n = first_word(lp_commands[i]);
        LP_CHECK(lp_text_format(out, err, "            '%.*s:", n, lp_commands[i]->name));
        for (size_t k = i; verb_of(lp_commands[i]) && k < lp_n_commands && (k == i || !is_first_of_group(k)); k++)
            LP_CHECK(lp_text_format(out, err, "%s%s", k > i ? ", " : "", verb_of(lp_commands[k])));
        if (!verb_of(lp_commands[i])) LP_CHECK(add_quoted(lp_commands[i]->summary, "'\\''", ":", out, err));
        LP_CHECK(lp_text_format(out, err, "'\n"));
    }
    LP_CHECK(lp_text_format(out, err,
                            "            '--help:describe the program' '--version:print the version'\n        )\n"
                            "        _describe command commands\n        return\n    fi\n    case $command in\n"));
    for (size_t i = 0; i < lp_n_commands; i++) {
        if (!verb_of(lp_commands[i]) || !is_first_of_group(i)) continue;
        LP_CHECK(lp_text_format(out, err,
                                "    %.*s)\n        if ((CURRENT == 3)); then\n            local -a verbs=(\n",
                                first_word(lp_commands[i]), lp_commands[i]->name));
        for (size_t k = i; k < lp_n_commands && (k == i || !is_first_of_group(k)); k++) {
            LP_CHECK(lp_text_format(out, err, "                '%s:", verb_of(lp_commands[k])));
            LP_CHECK(add_quoted(lp_commands[k]->summary, "'\\''", ":", out, err));
            LP_CHECK(lp_text_format(out, err, "'\n"));
        }
        LP_CHECK(lp_text_format(out, err,
                                "            )\n            _describe verb verbs\n            return\n        fi\n"
                                "        command+=\" $words[3]\"\n        shift 2 words\n"
                                "        ((CURRENT -= 2))\n        ;;\n"));
    }
    LP_CHECK(lp_text_format(
        out, err, "    *)\n        shift words\n        ((CURRENT--))\n        ;;\n    esac\n    case $command in\n"));
    for (size_t i = 0; i < lp_n_commands; i++) {
        LP_CHECK(lp_text_format(out, err, "    '%s')\n        ", lp_commands[i]->name));
        LP_CHECK(add_zsh_arguments(lp_commands[i], out, err));
        LP_CHECK(lp_text_format(out, err, "        ;;\n"));
    }
    return lp_text_format(out, err,
                          "    esac\n}\n"
                          "if [[ $funcstack[1] == _latentpatch ]]; then _latentpatch \"$@\"; else compdef "
                          "_latentpatch latentpatch; fi\n");
}

/* ---- fish ---- */

static lp_status add_fish_condition(const lp_command *command, lp_text *out, lp_error *err) {
    int n = first_word(command);
    lp_status status =
        lp_text_format(out, err, "complete -c latentpatch -n '__fish_seen_subcommand_from %.*s", n, command->name);
    if (status == LP_OK && verb_of(command))
        status = lp_text_format(out, err, "; and __fish_seen_subcommand_from %s", verb_of(command));
    return status == LP_OK ? lp_text_format(out, err, "'") : status;
}

static lp_status add_fish_option(const lp_command *command, const lp_option *option, lp_text *out, lp_error *err) {
    bool is_long = strncmp(option->name, "--", 2) == 0;
    LP_CHECK(add_fish_condition(command, out, err));
    LP_CHECK(lp_text_format(out, err, " -%s %s", is_long ? "l" : "s", option->name + (is_long ? 2 : 1)));
    if (option->kind == LP_OPTION_FILE || option->kind == LP_OPTION_PATH)
        LP_CHECK(lp_text_format(out, err, " -r -F"));
    else if (option->kind == LP_OPTION_FOLDER)
        LP_CHECK(lp_text_format(out, err, " -x -a '(__fish_complete_directories)'"));
    else if (option->kind == LP_OPTION_CHOICE) {
        LP_CHECK(lp_text_format(out, err, " -x -a '"));
        LP_CHECK(add_choices(option, out, err));
        LP_CHECK(lp_text_format(out, err, "'"));
    } else if (option->kind != LP_OPTION_FLAG)
        LP_CHECK(lp_text_format(out, err, " -x"));
    LP_CHECK(lp_text_format(out, err, " -d '"));
    LP_CHECK(add_quoted(option->help, "\\'", "\\", out, err));
    return lp_text_format(out, err, "'\n");
}

static lp_status add_fish(lp_text *out, lp_error *err) {
    LP_CHECK(lp_text_format(out, err,
                            "# fish completion of latentpatch: put it into ~/.config/fish/completions.\n"
                            "complete -c latentpatch -l help -d 'describe the program or the command'\n"
                            "complete -c latentpatch -l version -d 'print the version'\n"));
    for (size_t i = 0; i < lp_n_commands; i++) {
        const lp_command *command = lp_commands[i];
        int n = first_word(command);
        if (is_first_of_group(i))
            LP_CHECK(lp_text_format(out, err, "complete -c latentpatch -n __fish_use_subcommand -f -a %.*s", n,
                                    command->name));
        if (is_first_of_group(i) && !verb_of(command)) {
            LP_CHECK(lp_text_format(out, err, " -d '"));
            LP_CHECK(add_quoted(command->summary, "\\'", "\\", out, err));
            LP_CHECK(lp_text_format(out, err, "'"));
        }
        if (is_first_of_group(i) && verb_of(command)) {
            LP_CHECK(lp_text_format(out, err, " -d '"));
            for (size_t k = i; k < lp_n_commands && (k == i || !is_first_of_group(k)); k++)
                LP_CHECK(lp_text_format(out, err, "%s%s", k > i ? ", " : "", verb_of(lp_commands[k])));
            LP_CHECK(lp_text_format(out, err, "'"));
        }
        if (is_first_of_group(i)) LP_CHECK(lp_text_format(out, err, "\n"));
        if (verb_of(command)) {
            LP_CHECK(lp_text_format(
                out, err,
                "complete -c latentpatch -n '__fish_seen_subcommand_from %.*s; and test (count (commandline "
                "-opc)) -eq 2' -f -a %s -d '",
                n, command->name, verb_of(command)));
            LP_CHECK(add_quoted(command->summary, "\\'", "\\", out, err));
            LP_CHECK(lp_text_format(out, err, "'\n"));
        }
        if (command->operand_kind != LP_OPERANDS_FILES) {
            LP_CHECK(add_fish_condition(command, out, err));
            LP_CHECK(lp_text_format(
                out, err, command->operand_kind == LP_OPERANDS_SHELLS ? " -f -a 'bash zsh fish'\n" : " -f\n"));
        }
        for (size_t k = 0; k < command->n_options; k++)
            LP_CHECK(add_fish_option(command, &command->options[k], out, err));
    }
    return LP_OK;
}

lp_status lp_completion(lp_shell shell, lp_text *out, lp_error *err) {
    return shell == LP_SHELL_BASH ? add_bash(out, err) : shell == LP_SHELL_ZSH ? add_zsh(out, err) : add_fish(out, err);
}

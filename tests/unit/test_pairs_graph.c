/* Numbers of questions, and the equation graph: what is refused and why, and what a change makes of a solution.
 * The expected texts and answers are worked out by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "job/problem_graph.h"

static void numbers_of_questions(void **state) {
    (void)state;
    static const struct {
        const char *text, *found; /* each number as VALUE:kind, kind = digits word fraction implied fixed */
    } cases[] = {
        {"He has 12 apples, $1,250.50 and 3 dogs.", "12:d 1250.5:d 3:d"},
        {"Three cats and twelve dogs", "3:w 12:w"},
        {"twenty-five men, two hundred women, one boy", "25:x 200:x 1:x"},
        {"half of it, twice, a dozen, a third", "1/2:i 2:i 12:i 1/3:i"},
        {"2/3 of 9", "2/3:f 9:d"},
        {"2 1/2 cups", "2:x 1/2:f"},
        {"two thirds of it", "2:x 1/3:i"},
        {"at 5:30 pm, at 6 am, on May 3rd, in 2019", "5:x 30:x 6:x 3:x 2019:x"},
        {"$2019 and 2,019 miles", "2019:d 2019:d"},
        {"5-6 days, 4x4, 7k, the 1990s, A4, #9", "5:x 6:x 4:x 4:x 7:x 1990:x 4:x 9:x"},
        {"a 60-mile trip of 2-hour legs", "60:d 2:d"},
        {"25% or 20 percent or 30 cents", "25:d 20:d 30:d"},
        {"grade 5, size 9, Day 3", "5:x 9:x 3:x"},
        {"5 million and 3 and a half", "5:x 1000000:x 3:x 1/2:i"},
        {"someone none attend tone", ""},
        {".5 and 0.25.", "0.5:d 0.25:d"},
    };
    static const char kinds[] = "dwfix";
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_number_list list;
        lp_text shown = {0};
        lp_error error;
        lp_numbers_find(cases[i].text, strlen(cases[i].text), LP_TEXT_QUESTION, &list);
        for (size_t k = 0; k < list.n; k++) {
            if (k > 0) lp_text_add(&shown, " ", 1, &error);
            lp_rational_print(list.items[k].value, 0, LP_COMMAS_NO, &shown, &error);
            /* Fractions that end are shown as such here, to tell 1/2 from 0.5. */
            lp_text_format(&shown, &error, ":%c", kinds[list.items[k].kind]);
        }
        char *at = NULL;
        lp_text plain = {0};
        lp_text_add(&plain, cases[i].found, strlen(cases[i].found), &error);
        while (plain.length && (at = strstr(plain.data, "1/2:")) != NULL) memcpy(at, "0.5", 3);
        if (strcmp(lp_text_get(&shown), lp_text_get(&plain)) != 0)
            fail_msg("%s\n  expected: %s\n  found:    %s", cases[i].text, lp_text_get(&plain), lp_text_get(&shown));
        lp_text_release(&shown);
        lp_text_release(&plain);
    }
}

static lp_reason build(const char *question, const char *solution, const char *answer, lp_graph *out) {
    lp_rational value = {0, 1};
    assert_true(lp_rational_parse(answer, strlen(answer), &value));
    return lp_graph_build(question, solution, value, out);
}

static lp_graph graph;
static lp_recomputed changed;

static void problems(void **state) {
    (void)state;
    static const struct {
        const char *question, *solution, *answer, *reason;
    } cases[] = {
        {"A has 5 and B 7. Sum?", "5+7=<<5+7=12>>12\n#### 12", "12", "none"},
        {"A has 5 and B 7. Sum?", "It is 12.\n#### 12", "12", "no-annotation"},
        {"A has 5 and B 7. Sum?", "<<5+y=12>>", "12", "bad-annotation"},
        {"A has 5 and B 7. Sum?", "<<5+7>>", "12", "bad-annotation"},
        {"A has 5 and B 7. Sum?", "<<5+7=12", "12", "bad-annotation"},
        {"A has 5 and B 7. Sum?", "<<5+7=12 apples>>", "12", "bad-annotation"},
        {"A has 5 and B 7. Sum?", "<<(5+7=12>>", "12", "bad-annotation"},
        {"A has 5 and B 7. Sum?", "<<5+7=12> <<5+7=12>>", "12", "bad-annotation"},
        {"A has 5, B 7 and C 9. A and B?", "<<5+7=12>>", "12", "conditional"},
        {"A has 5 and B 7. Sum?", "<<5/(7-7)=1>>", "1", "division-by-zero"},
        {"A has 5 and B 7. Sum?", "<<9000000000000000000*7=1>>", "1", "overflow"},
        {"A has 10 and B 3. Share?", "<<10/3=3.33>>", "3.33", "inexact-step"},
        {"A has 5 and B 7. Sum?", "<<5+7=12>>", "13", "answer-not-derived"},
        {"A has 5 and B 7. Sum?", "<<5+9=14>>", "14", "unexplained-operand"},
        {"A has 5 and B 7. Sum?", "As 19 is prime, <<5+7=12>>", "12", "unexplained-text"},
        {"How many minutes are 5 hours?", "<<5*60=300>>300", "300", "none"},
        {"How many legs have 5 bugs?", "<<5*60=300>>300", "300", "unexplained-operand"},
        {"A has 20 and buys 10% more. How many?", "20*.1=<<20*.1=2>>2\n<<20+2=22>>22", "22", "none"},
        {"A has 20% off of $50. Price?", "<<50*.8=40>>40", "40", "none"},
        {"Paid 10 a day, after 8 days double. For 5 days?", "<<10*5=50>>50", "50", "conditional"},
        {"The cheapest of 5 pens is 3 less. Which?", "<<5-3=2>>2", "2", "conditional"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *found = lp_reason_name(build(cases[i].question, cases[i].solution, cases[i].answer, &graph));
        if (strcmp(found, cases[i].reason) != 0)
            fail_msg("%s %s: expected %s, found %s", cases[i].question, cases[i].solution, cases[i].reason, found);
    }
}

/* A change: number `nth` of the question becomes `to`. */
static void changes(void **state) {
    (void)state;
    static const struct {
        const char *question, *solution, *answer;
        size_t nth;
        const char *to, *reason, *new_question, *new_solution;
    } cases[] = {
        {"He buys 3 boxes of 12 pens and loses 4. How many?",
         "3*12 = <<3*12=36>>36 pens\nSo 36-4=<<36-4=32>>32\n#### 32", "32", 1, "15", "none",
         "He buys 3 boxes of 15 pens and loses 4. How many?",
         "3*15 = <<3*15=45>>45 pens\nSo 45-4=<<45-4=41>>41\n#### 41"},
        {"Three boxes of $1,250.50 each: what cost?", "<<3*1250.50=3751.50>>$3,751.50\n#### 3751.5", "3751.5", 0, "5",
         "none", "Five boxes of $1,250.50 each: what cost?", "<<5*1250.50=6252.50>>$6,252.50\n#### 6252.5"},
        {"A coat of $50 is 20% off. Price?", "<<50*.8=40>>40\n#### 40", "40", 1, "40", "none",
         "A coat of $50 is 40% off. Price?", "<<50*0.6=30>>30\n#### 30"},
        {"Ann runs 9 miles in 3 hours. Speed?", "<<9/3=3>>3\n#### 3", "3", 0, "8", "not-whole", "", ""},
        {"Ann has 9 and gives 3. Left?", "<<9-3=6>>6\n#### 6", "6", 1, "9", "not-positive", "", ""},
        {"Ann has 9 and gives 3 and 4. Left?", "<<9-(3+4)=2>>2\n#### 2", "2", 1, "6", "not-positive", "", ""},
        {"8 of 40 are red. Percent?", "<<8/40*100=20>>20%\n#### 20", "20", 0, "50", "percent-range", "", ""},
        {"He eats 2 of 8 slices. Share?", "<<2/8=0.25>>0.25\n#### 0.25", "0.25", 0, "8", "crosses-one", "", ""},
        {"A 5, B 7, C 9. A and B?", "<<5+9=14>>14\n<<5+7=12>>12\n#### 12", "12", 2, "8", "loose-step", "", ""},
        {"4 squares and 9 dogs. Corners?", "<<4*4=16>>16\n#### 16", "16", 0, "5", "ambiguous-link", "", ""},
        {"He has 5 and gets 3, then 8 more. How many?", "<<5+3=8>>8\n<<8+8=16>>16\n#### 16", "16", 2, "9",
         "ambiguous-link", "", ""},
        {"He and 3 friends share 24 eggs for 2 weeks. Each?", "<<24/4=6>>6\n#### 6", "6", 0, "5", "ambiguous-link", "",
         ""},
        {"3 of 7 days he eats 9 eggs, else 2. Eggs?", "On 7-3=4 days\n<<9*3=27>>27\n<<27+2*4=35>>35\n#### 35", "35", 0,
         "2", "unexplained-operand", "", ""},
        {"In 2 years he got 50% more, 9 a year. Words?", "1/.5=2 times\n<<9*2=18>>18\n<<18*2=36>>36\n#### 36", "36", 0,
         "4", "text-equation", "", ""},
        {"A has 5. B has 3 more, C 6. Who?", "<<5*6-6*5+3=3>>3\n#### 3", "3", 0, "7", "equal-answer", "", ""},
        {"A has 3, B 5 and C 4. They share. Each?", "3+5+4=<<3+5+4=12>>12\n<<12/3=4>>4\n#### 4", "4", 0, "6",
         "ambiguous-link", "", ""},
        {"A has 9 and B 7. Sum?", "<<9+7=16>>16\n#### 16", "16", 0, "9223372036854775807", "overflow", "", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_reason reason = build(cases[i].question, cases[i].solution, cases[i].answer, &graph);
        lp_rational to = {0, 1};
        lp_text text = {0};
        lp_error error = {0};
        assert_true(lp_rational_parse(cases[i].to, strlen(cases[i].to), &to));
        if (reason == LP_REASON_NONE || reason == LP_REASON_CONDITIONAL) {
            assert_true(cases[i].nth < graph.numbers.n);
            lp_graph_unchanged(&graph, &changed);
            changed.numbers[cases[i].nth].value = to;
            reason = lp_graph_recompute(&graph, &changed);
            if (reason == LP_REASON_NONE) reason = lp_graph_sound(&graph, &changed);
        }
        if (strcmp(lp_reason_name(reason), cases[i].reason) != 0)
            fail_msg("%s -> %s: expected %s, found %s", cases[i].question, cases[i].to, cases[i].reason,
                     lp_reason_name(reason));
        if (reason != LP_REASON_NONE) continue;
        assert_int_equal(lp_graph_question(&graph, &changed, &text, &error), LP_OK);
        if (cases[i].new_question[0]) assert_string_equal(lp_text_get(&text), cases[i].new_question);
        lp_text_clear(&text);
        assert_int_equal(lp_graph_solution(&graph, &changed, &text, &error), LP_OK);
        assert_string_equal(lp_text_get(&text), cases[i].new_solution);
        lp_text_release(&text);
    }
}

static void changeable_numbers(void **state) {
    (void)state;
    static const struct {
        const char *question, *solution, *answer;
        size_t nth;
        const char *reason;
    } cases[] = {
        {"He has 12 eggs and 7 pens. Sum?", "<<12+7=19>>19", "19", 0, "none"},
        {"He has 12 eggs and 12 pens and 7. Sum?", "<<12+12+7=31>>31", "31", 0, "repeated-value"},
        {"He has 12 eggs and a dozen pens. Sum?", "<<12+12=24>>24", "24", 0, "repeated-value"},
        {"He has 12 eggs, 7 pens and five cats. Eggs and pens?", "<<12+7=19>>19", "19", 2, "not-linked"},
        {"At 12 pm he has 7 eggs. Half-days until 12?", "<<12+7=19>>19", "19", 0, "fixed-number"},
        {"He has 1 egg and 7 pens. Sum?", "<<1+7=8>>8", "8", 0, "fixed-number"},
        {"The three boys have 9 each. Sum?", "<<3*9=27>>27", "27", 0, "enumerated"},
        {"She has 3 pets: a cat, a dog and a cow, of 9 kg each. Sum?", "<<3*9=27>>27", "27", 0, "enumerated"},
        {"Tests gave 70, 80 and 90 points. Mean of 3?", "<<70+80+90=240>>240\n<<240/3=80>>80", "80", 3, "enumerated"},
        {"Of 60 balls 25 are red and 35 blue. Red and blue pay 2. Pay?", "<<25+35=60>>60\n<<60*2=120>>120", "120", 1,
         "redundant"},
        {"Of 60 balls 25 are red, 30 blue and 5 white. Double of all but red?",
         "<<60-25=35>>35\n<<30+5=35>>35\n<<35*2=70>>70", "70", 2, "redundant"},
        {"Of 42 seats in 6 rows of 7 half are taken. Taken per row?", "<<42/2=21>>21\n<<21/6=3.5>>3.5\n<<3.5*2=7>>7",
         "7", 1, "redundant"},
        {"30% walk and 70% ride, of 50. Walkers?", "<<50*.3=15>>15", "15", 0, "redundant"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_reason built = build(cases[i].question, cases[i].solution, cases[i].answer, &graph);
        if (built != LP_REASON_NONE) fail_msg("%s: %s", cases[i].question, lp_reason_name(built));
        const char *found = lp_reason_name(lp_graph_changeable(&graph, cases[i].nth));
        if (strcmp(found, cases[i].reason) != 0)
            fail_msg("%s, number %zu: expected %s, found %s", cases[i].question, cases[i].nth, cases[i].reason, found);
    }
}

static void limits(void **state) {
    (void)state;
    static const struct {
        const char *question;
        int64_t limit;
    } cases[] = {
        {"He works 5 days a week.", 7},
        {"It runs 3 hours each day.", 24},
        {"A tax of 15% is paid.", 99},
        {"A gain of 150% is made.", 0},
        {"He has 5 dogs.", 0},
        {"He swims 4 days per week.", 7},
        {"She pays 6 months of the year.", 12},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        graph.question = cases[i].question;
        graph.question_length = strlen(cases[i].question);
        lp_numbers_find(graph.question, graph.question_length, LP_TEXT_QUESTION, &graph.numbers);
        int64_t found = lp_graph_limit(&graph, 0);
        if (found != cases[i].limit)
            fail_msg("%s: expected %lld, found %lld", cases[i].question, (long long)cases[i].limit, (long long)found);
    }
}

static void variants(void **state) {
    (void)state;
    const char *question = "Three men eat 12 eggs in half a day.";
    assert_int_equal(build(question, "<<12/3=4>>4", "4", &graph), LP_REASON_NONE);
    lp_graph_unchanged(&graph, &changed);
    assert_int_equal(lp_graph_take_variant(&graph, "Five men  eat 20 eggs in half a day.", &changed), LP_REASON_NONE);
    assert_int_equal(lp_graph_recompute(&graph, &changed), LP_REASON_NONE);
    assert_int_equal(changed.answer.n, 4);
    assert_int_equal(changed.numbers[1].value.n, 20);
    assert_int_equal(lp_graph_take_variant(&graph, "Five men ate 20 eggs in half a day.", &changed),
                     LP_REASON_OTHER_TEXT);
    assert_int_equal(lp_graph_take_variant(&graph, "Five men eat 20 eggs.", &changed), LP_REASON_OTHER_TEXT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_of_questions), cmocka_unit_test(problems), cmocka_unit_test(changes),
        cmocka_unit_test(changeable_numbers),   cmocka_unit_test(limits),   cmocka_unit_test(variants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
